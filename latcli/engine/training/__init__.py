"""Localized adversarial training, Algorithm 1 and its variants; independent of stores and the command line."""
