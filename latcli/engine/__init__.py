"""Tensors in, tensors out: localize, attack, check, score. Must not know the store, reporting or the command line."""
