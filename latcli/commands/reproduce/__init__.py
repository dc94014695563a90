"""`latcli reproduce`: a claim of the paper in, the runs it takes and its verdict out; `command` is where it begins."""
