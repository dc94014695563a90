"""Masks from an image's own grey levels, a whole batch at a time; must not know data sets, detectors or attacks.

Legend: B images, C channels, H, W pixels, L = 256 levels. mask_B1HW is 1 on the object.
"""

from __future__ import annotations

import torch

_LEVELS = 256


def otsu_mask(x_BCHW: torch.Tensor) -> torch.Tensor:
    """mask_B1HW, float: each image cut in two by the threshold that parts its levels best (Otsu, 1979).

    The object is the side that has less of the image's border. An image of one level has no object: its mask is empty.
    `x_BCHW` is in [0, 1]; of several channels the mean counts.
    """
    grey_BHW = x_BCHW.mean(dim=1).mul(_LEVELS - 1).round_().to(torch.int64)
    bright_BHW = grey_BHW > _thresholds(grey_BHW)[:, None, None]
    border_BP = torch.cat((bright_BHW[:, 0], bright_BHW[:, -1], bright_BHW[:, :, 0], bright_BHW[:, :, -1]), dim=1)
    on_bright_B = border_BP.float().mean(dim=1) > 0.5
    object_BHW = bright_BHW ^ on_bright_B[:, None, None]
    object_BHW &= (grey_BHW.amax(dim=(1, 2)) > grey_BHW.amin(dim=(1, 2)))[:, None, None]
    return object_BHW[:, None].float()


def _thresholds(grey_BHW: torch.Tensor) -> torch.Tensor:
    """The level of each image above which a pixel is bright, int64 (B,): where between-class variance is largest."""
    B = len(grey_BHW)
    flat_BP = grey_BHW.flatten(1)
    counts_BL = torch.zeros(B, _LEVELS, device=grey_BHW.device).scatter_add_(
        1, flat_BP, torch.ones_like(flat_BP, dtype=torch.float32)
    )
    # Sums of whole numbers: float64 keeps them exact, so the threshold is the same on every device.
    share_BL = counts_BL.double().cumsum(dim=1)
    levels_L = torch.arange(_LEVELS, device=grey_BHW.device, dtype=torch.float64)
    sum_BL = (counts_BL * levels_L).cumsum(dim=1)
    total_B1, whole_B1 = share_BL[:, -1:], sum_BL[:, -1:]
    between_BL = (whole_B1 * share_BL - total_B1 * sum_BL).square() / (share_BL * (total_B1 - share_BL)).clamp_min(1.0)
    return between_BL.argmax(dim=1)
