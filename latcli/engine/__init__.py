"""Tensors in, tensors out: localize, attack, check, score. Independent of the store, reporting and the command line.

The letters that end a tensor's name are its axes: B images or photos of a batch, b a part of them, N images of a set, C
channels, H, W pixels (a photo's own), h, w the pixels of a network's input, K classes. Modules say what others mean.

x is in [0, 1], levels are uint8. mask_1HW is float in [0, 1]: 1 on the object, 0 on the background, between them a soft
edge. eps_B1HW is the epsilon matrix (the paper's epmatrix): the largest change allowed at each pixel, in [0, 1] image
scale.
"""
