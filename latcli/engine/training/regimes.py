"""What a model is trained against, as values of the epsilon matrix; must not know attacks, losses or data sets.

Legend: B images, C channels, H, W pixels. eps_B1HW is the epsilon matrix in [0, 1] image scale.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch

from latcli.engine.datasets.base import Images, MaskSource
from latcli.engine.localize import Region, center_mask, epsilon_matrix
from latcli.engine.training.silhouettes import otsu_mask
from latcli.errors import UsageError

Regime = Literal["natural", "standard", "background", "foreground", "random"]

REGIMES: tuple[Regime, ...] = get_args(Regime)

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
        return otsu_mask(images.x_BCHW)
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
