"""`latcli report`: stored runs in, one document and its files out; `command` is where it begins."""
