"""Tensors in, tensors out: localize, attack, check, score. Independent of the store, reporting and the command line."""
