"""`latcli train`: options in, a trained and stored model out; `command` is where it begins."""
