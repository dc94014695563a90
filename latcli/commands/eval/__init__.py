"""`latcli eval`: models in, the loss matrix and what goes beyond it out; `command` is where it begins."""
