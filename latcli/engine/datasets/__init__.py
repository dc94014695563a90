"""Data sets: a name or a folder in, labelled images by number out."""
