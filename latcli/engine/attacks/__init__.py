"""Attacks: one function each, with one signature. They see an epsilon matrix, never a box, a mask or a region name."""
