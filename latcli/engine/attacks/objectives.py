"""What an attack climbs, one number an image; knows logits and labels only.

Legend: B images, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from latcli.engine.attacks.settings import AttackSettings

ObjectiveFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def cross_entropy_odds(logits_BK: torch.Tensor, y_B: torch.Tensor) -> torch.Tensor:
    """Log odds against the label: logsumexp of the other logits minus the label's; shape (B,).

    Cross entropy is softplus of this, so both have the same maximum and gradients of the same direction. But the
    gradient of cross entropy is scaled by 1 - p(label) and is exactly zero in float32 once the model is sure, which
    makes confident models look robust; this one never fades.
    """
    label_logit_B, others_BK = _split(logits_BK, y_B)
    return others_BK.logsumexp(dim=1) - label_logit_B


def logit_margin(logits_BK: torch.Tensor, y_B: torch.Tensor) -> torch.Tensor:
    """Largest other logit minus the label's; shape (B,). Above 0 exactly where the label is not the top guess.

    Source: Carlini and Wagner, S&P'17, objective f6.
    """
    label_logit_B, others_BK = _split(logits_BK, y_B)
    return others_BK.amax(dim=1) - label_logit_B


def objective_for(settings: AttackSettings) -> ObjectiveFunction:
    """The function to climb: away from the label, or towards the target."""
    climb = {"ce": cross_entropy_odds, "margin": logit_margin}[settings.objective]
    if settings.targeted:
        return lambda logits_BK, y_B: -climb(logits_BK, y_B)
    return climb


def reached(logits_BK: torch.Tensor, y_B: torch.Tensor, settings: AttackSettings, rank: int = 1) -> torch.Tensor:
    """Bool (B,): `rank` classes stand above the label by more than the stop margin; targeted: the target stands first.

    A tie is not enough: an attack has to win, not to draw.
    """
    label_logit_B, others_BK = _split(logits_BK, y_B)
    if settings.targeted:
        return label_logit_B > others_BK.amax(dim=1) + settings.stop_margin
    rank = min(rank, logits_BK.shape[1] - 1)
    return others_BK.topk(rank, dim=1).values[:, -1] > label_logit_B + settings.stop_margin


def _split(logits_BK: torch.Tensor, y_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    logits_BK = logits_BK.float()
    column_B1 = y_B[:, None]
    return logits_BK.gather(1, column_B1)[:, 0], logits_BK.scatter(1, column_B1, float("-inf"))
