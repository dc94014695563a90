"""Localized adversarial attacks and localized adversarial training."""

__version__ = "0.1.0"
