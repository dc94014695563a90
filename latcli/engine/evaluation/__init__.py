"""Evaluation: how well models do, attacked and not."""
