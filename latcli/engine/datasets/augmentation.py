"""Random changes to training images, the same for the same seeds whatever the batch; must not know data sets.

Legend: B images, C channels, H, W pixels.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from latcli.engine.noise import uniform_noise

_PADDING = 4


def crop_and_flip(x_BCHW: torch.Tensor, seeds_B: torch.Tensor) -> torch.Tensor:
    """Each image moved by up to 4 pixels either way (black comes in) and mirrored every other time.

    `seeds_B` int64, one an image. This is what CIFAR-10 is usually trained with.
    """
    _, _, H, W = x_BCHW.shape
    device = x_BCHW.device
    drawn_B3 = uniform_noise(seeds_B, (1, 1, 3))[:, 0, 0]
    offset_B2 = (drawn_B3[:, :2] * (2 * _PADDING + 1)).long()
    rows_BH = offset_B2[:, :1] + torch.arange(H, device=device)
    columns_BW = torch.arange(W, device=device).expand(len(x_BCHW), W)
    columns_BW = torch.where(drawn_B3[:, 2:] < 0.5, columns_BW, W - 1 - columns_BW) + offset_B2[:, 1:]
    padded_BCHW = functional.pad(x_BCHW, (_PADDING,) * 4)
    images_B11 = torch.arange(len(x_BCHW), device=device)[:, None, None]
    # Advanced indexing puts the three indexed axes first: (B, H, W, C).
    return padded_BCHW[images_B11, :, rows_BH[:, :, None], columns_BW[:, None, :]].permute(0, 3, 1, 2).contiguous()
