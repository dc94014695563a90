"""`latcli attack`: photos in, adversarial photos and what became of them out; `command` is where it begins."""
