"""Detectors: a photo in, the boxes of its objects out; they know nothing of attacks or epsilon."""
