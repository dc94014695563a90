"""What a model is trained against: objects' masks, and regimes as values of the epsilon matrix.

Legend: L = 256 levels.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch

from latcli.engine.datasets.base import Images, MaskSource
from latcli.engine.localize import Region, center_mask, epsilon_matrix
from latcli.errors import UsageError

Regime = Literal["natural", "standard", "background", "foreground", "random"]

REGIMES: tuple[Regime, ...] = get_args(Regime)

_LEVELS = 256

#: Regimes that train on adversarial images, and what those may change.
_REGIONS: dict[Regime, Region] = {
    "standard": "all",
    "background": "background",
    "foreground": "foreground",
    "random": "random",
}

#: Regimes whose adversarial images depend on where the object is.
LOCALIZED: frozenset[Regime] = frozenset({"background", "foreground", "random"})


def masks(images: Images, source: MaskSource, center: float) -> torch.Tensor:
    """mask_B1HW of the objects: the middle pixels as in the paper (`center` is their share of a side), or silhouettes.

    Silhouettes, which the paper's Discussion asks for, are Otsu's. `detector` and `folder` are what the data set itself
    knows of its objects. Raises UsageError where it knows nothing.
    """
    if source == "otsu":
        # Not of moved images: the black that comes in would pass for the ground that a bright image lies on.
        return otsu_mask(images.x_BCHW) if images.found_B1HW is None else images.found_B1HW
    if source == "center":
        _, _, H, W = images.x_BCHW.shape
        mask_1HW = center_mask((H, W), center).to(images.x_BCHW.device)
        return mask_1HW.expand(len(images.x_BCHW), -1, -1, -1)
    if images.mask_B1HW is None:
        raise UsageError(
            f"this data set has no masks that --mask-from {source} could use", "choose --mask-from center or otsu"
        )
    return images.mask_B1HW


def regime_epsilon(regime: Regime, mask_B1HW: torch.Tensor, epsilon: float, seeds_B: torch.Tensor) -> torch.Tensor:
    """eps_B1HW of a regime's adversarial images; `natural` changes nothing, and neither does an epsilon of 0.

    `seeds_B` int64 place the mask of `random`.
    """
    if regime == "natural" or epsilon == 0.0:
        return torch.zeros_like(mask_B1HW)
    seeds = seeds_B.tolist() if regime == "random" else None
    return epsilon_matrix(mask_B1HW, epsilon, _REGIONS[regime], seeds)


# silhouettes from an image's own grey levels


def otsu_mask(x_BCHW: torch.Tensor) -> torch.Tensor:
    """mask_B1HW, float: each image cut in two by the threshold that parts its levels best (Otsu, 1979).

    The object is the side that has less of the image's border. An image of one level has no object: its mask is empty.
    `x_BCHW` is in [0, 1]; of several channels the mean counts.
    """
    grey_BHW = x_BCHW.mean(dim=1).mul(_LEVELS - 1).round_().to(torch.int64)
    flat_BP = grey_BHW.flatten(1).cpu()  # Apple's GPUs have no float64
    counts_BL = torch.zeros(len(flat_BP), _LEVELS).scatter_add_(
        1, flat_BP, torch.ones_like(flat_BP, dtype=torch.float32)
    )
    # Sums of whole numbers: float64 keeps them exact, so the threshold is the same on every device.
    share_BL = counts_BL.double().cumsum(dim=1)
    sum_BL = (counts_BL * torch.arange(_LEVELS, dtype=torch.float64)).cumsum(dim=1)
    total_B1, whole_B1 = share_BL[:, -1:], sum_BL[:, -1:]
    between_BL = (whole_B1 * share_BL - total_B1 * sum_BL).square() / (share_BL * (total_B1 - share_BL)).clamp_min(1.0)
    bright_BHW = grey_BHW > between_BL.argmax(dim=1).to(grey_BHW.device)[:, None, None]
    border_BP = torch.cat((bright_BHW[:, 0], bright_BHW[:, -1], bright_BHW[:, :, 0], bright_BHW[:, :, -1]), dim=1)
    on_bright_B = border_BP.float().mean(dim=1) > 0.5
    object_BHW = bright_BHW ^ on_bright_B[:, None, None]
    object_BHW &= (grey_BHW.amax(dim=(1, 2)) > grey_BHW.amin(dim=(1, 2)))[:, None, None]
    return object_BHW[:, None].float()
