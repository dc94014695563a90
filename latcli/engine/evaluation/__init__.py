"""Models against inputs: the loss matrix, what is measured beside it, and what makes its figures doubtful."""
