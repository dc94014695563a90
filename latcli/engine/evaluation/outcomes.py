"""What a model makes of labelled images, one by one, in fp32; must not know where they came from.

Legend: B images, C channels, H, W pixels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from latcli.engine.attacks.objectives import is_right
from latcli.engine.attacks.settings import AttackSettings, Model
from latcli.errors import LatcliError, UsageError


@dataclass(frozen=True, eq=False)
class Outcomes:
    """loss_B, float64: the label's cross entropy; right_B, bool: the label is the top guess, a tie is not.

    Both on the CPU.
    """

    loss_B: torch.Tensor
    right_B: torch.Tensor


@torch.no_grad()
def judge(score: Model, x_BCHW: torch.Tensor, y_B: torch.Tensor) -> Outcomes:
    """Score images in [0, 1] against their labels.

    Raises LatcliError for labels that the model does not have, and for NaN or infinite logits.
    """
    # float64, and on the CPU since not every device has it: a sure model's loss is lost in float32.
    logits_BK, labels_B = score(x_BCHW).float().cpu().double(), y_B.cpu()
    K = logits_BK.shape[1]
    if len(labels_B) and not 0 <= int(labels_B.min()) <= int(labels_B.max()) < K:
        raise LatcliError(
            f"the labels {int(labels_B.min())} to {int(labels_B.max())} do not fit a model of {K} classes",
            "evaluate a model on the data set that it was trained for",
        )
    if not torch.isfinite(logits_BK).all():
        raise LatcliError("the model returns NaN or infinite logits", "check its weights and the range of its input")
    loss_B = -logits_BK.log_softmax(dim=1).gather(1, labels_B[:, None])[:, 0]
    return Outcomes(loss_B, is_right(logits_BK, labels_B))


def refuse_targets(settings: AttackSettings) -> None:
    """Raise UsageError for an attack that would lead the images to their labels instead of away from them."""
    if settings.targeted:
        raise UsageError("a targeted attack cannot measure accuracy", "leave the target out")
