"""Models against inputs: the loss matrix and what makes its figures doubtful; must not know files, runs or tables."""
