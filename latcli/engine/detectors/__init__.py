"""Detectors: a photo in, the boxes of its objects out."""
