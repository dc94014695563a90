"""What a model makes of labelled images, one by one: the loss and whether the label is the top guess.

Legend: B images, C channels, H, W pixels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latcli.engine.attacks.objectives import is_right
from latcli.engine.attacks.settings import Model
from latcli.errors import LatcliError


@dataclass(frozen=True, eq=False)
class Outcomes:
    """loss_B, float64: the label's cross entropy; right_B, bool: the label is the top guess, a tie is not.

    Both on the CPU.
    """

    loss_B: Tensor
    right_B: Tensor


@torch.no_grad()
def judge(score: Model, x_BCHW: Tensor, y_B: Tensor, name: str = "the model") -> Outcomes:
    """Score images in [0, 1] against their labels: logits in fp32, all else in float64 on the CPU.

    Raises LatcliError, in which the model is called `name`, for labels that it does not have, and for NaN or infinite
    logits.
    """
    # A sure model's loss is lost in float32; and Apple's GPUs have no float64, so to the CPU first.
    logits_BK, labels_B = score(x_BCHW).float().cpu().double(), y_B.cpu()
    K = logits_BK.shape[1]
    if len(labels_B) and not 0 <= int(labels_B.min()) <= int(labels_B.max()) < K:
        raise LatcliError(
            f"the labels {int(labels_B.min())} to {int(labels_B.max())} do not fit the {K} classes of {name}",
            "evaluate a model on the data set that it was trained for",
        )
    bad_B = ~torch.isfinite(logits_BK).all(dim=1)
    if bad_B.any():
        raise LatcliError(
            f"{name} returns NaN or infinite logits for {int(bad_B.sum())} of {len(bad_B)} images",
            "check its weights and the range of its input; a model that diverged cannot be evaluated",
        )
    loss_B = -logits_BK.log_softmax(dim=1).gather(1, labels_B[:, None])[:, 0]
    return Outcomes(loss_B, is_right(logits_BK, labels_B))
