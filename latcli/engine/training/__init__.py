"""Localized adversarial training, Algorithm 1 and its variants; must not know files, stores or the command line."""
