"""Classifiers by name: each takes images in [0, 1] and returns logits; normalisation lives inside."""
