"""Data sets, one file a family: a name and a folder in, whole sets of small images out; must not know training."""
