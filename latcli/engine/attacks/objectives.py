"""What an attack climbs, and the worst candidate that it has met: functions of logits and labels, one number an image.

Legend: B images, C channels, H, W pixels, K classes; a small b is the part of the batch that is spoken of.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

from latcli.engine.attacks.settings import AttackSettings, ranks_of

#: Of logits_BK and labels y_B, and sometimes more.
ObjectiveFunction = Callable[..., Tensor]

#: Added to differences of logits that are divided by: all of them equal is 0 / 1e-12, not 0 / 0.
_NO_DIVISION_BY_ZERO = 1e-12

#: A logit that leads the label's by this much stays ahead through rounding to 8 bits, and counts as won.
SAFELY_WON = 2.0


def cross_entropy_odds(logits_BK: Tensor, y_B: Tensor) -> Tensor:
    """Log odds against the label: logsumexp of the other logits minus the label's; shape (B,).

    Cross entropy is softplus of this, so both have the same maximum and gradients of the same direction. But the
    gradient of cross entropy is scaled by 1 - p(label) and is exactly zero in float32 once the model is sure, which
    makes confident models look robust; this one never fades.
    """
    label_logit_B, others_BK = _split(logits_BK, y_B)
    return others_BK.logsumexp(dim=1) - label_logit_B


def odds_slope(logits_BK: Tensor, y_B: Tensor) -> Tensor:
    """Gradient of `cross_entropy_odds` with respect to the logits, (B, K): softmax of the others, -1 for the label."""
    _, others_BK = _split(logits_BK, y_B)
    return others_BK.softmax(dim=1).scatter_(1, y_B[:, None], -1.0).to(logits_BK.dtype)


def logit_margin(logits_BK: Tensor, y_B: Tensor) -> Tensor:
    """Largest other logit minus the label's; shape (B,). Above 0 exactly where the label is not the top guess.

    Source: Carlini and Wagner, S&P'17, objective f6.
    """
    label_logit_B, others_BK = _split(logits_BK, y_B)
    return others_BK.amax(dim=1) - label_logit_B


def is_right(logits_BK: Tensor, y_B: Tensor) -> Tensor:
    """Bool (B,): the label is the top guess, alone. A tie is no right answer, wherever it falls in the list of classes.

    A model that rounds its logits ties often, and the first of equals would be right by its place alone.
    """
    return logit_margin(logits_BK, y_B) < 0


def dlr(logits_BK: Tensor, y_B: Tensor) -> Tensor:
    """Difference of logits ratio, shape (B,): the logit margin as a share of (z_1st - z_3rd), logits sorted downwards.

        DLR(x, y) = -(z_y - max_{i != y} z_i) / (z_1st - z_3rd)

    Neither a shift nor a scale of the logits changes it. With two classes the ratio would be the constant +-1, so there
    it is the margin itself. Source: Croce and Hein, ICML'20, equation 6.
    """
    margin_B = logit_margin(logits_BK, y_B)
    if logits_BK.shape[1] < 3:
        return margin_B
    top_B3 = logits_BK.float().topk(3, dim=1).values
    return margin_B / (top_B3[:, 0] - top_B3[:, 2] + _NO_DIVISION_BY_ZERO)


def targeted_dlr(logits_BK: Tensor, y_B: Tensor, target_B: Tensor) -> Tensor:
    """The same towards one class, shape (B,); `target_B` int64 names a class other than the label.

        Targeted-DLR(x, y, t) = -(z_y - z_t) / (z_1st - (z_3rd + z_4th) / 2)

    With fewer than four classes the difference stays undivided: over z_1st - z_3rd it would be the constant -1 as long
    as the label stands first and the target third, and no gradient would lead on. Source: Croce and Hein, ICML'20,
    equation 7.
    """
    logits_BK = logits_BK.float()
    label_logit_B, target_logit_B = (logits_BK.gather(1, c_B[:, None])[:, 0] for c_B in (y_B, target_B))
    lead_B = target_logit_B - label_logit_B
    if logits_BK.shape[1] < 4:
        return lead_B
    top_B4 = logits_BK.topk(4, dim=1).values
    return lead_B / (top_B4[:, 0] - top_B4[:, 2:].mean(dim=1) + _NO_DIVISION_BY_ZERO)


def top_margins(logits_BK: Tensor, y_B: Tensor, ranks: int) -> Tensor:
    """Sum of the leads of the `ranks` largest other logits over the label's, `SAFELY_WON` at most each; shape (B,).

    It is largest where the label has left the first `ranks` guesses, however sure the model is of the first of them:
    cross entropy drives up one wrong class and may leave the label second. With fewer other classes, all count.
    """
    label_logit_B, others_BK = _split(logits_BK, y_B)
    top_BR = others_BK.topk(min(ranks, logits_BK.shape[1] - 1), dim=1).values
    return (top_BR - label_logit_B[:, None]).clamp_max(SAFELY_WON).sum(dim=1)


def objective_for(settings: AttackSettings) -> ObjectiveFunction:
    """The function to climb: away from the label, or towards the target."""
    if ranks := ranks_of(settings.objective):
        return _first_ranks(ranks)
    return directed({"ce": cross_entropy_odds, "margin": logit_margin}[settings.objective], settings)


def directed(climb: ObjectiveFunction, settings: AttackSettings) -> ObjectiveFunction:
    """`climb` away from the label, or towards the target that y_B names instead."""
    return _towards(climb) if settings.targeted else climb


# The same settings give the same function each time, by which recordings of its gradient are known.


@cache
def _first_ranks(ranks: int) -> ObjectiveFunction:
    return partial(top_margins, ranks=ranks)


@cache
def _towards(climb: ObjectiveFunction) -> ObjectiveFunction:
    return lambda logits_BK, y_B: -climb(logits_BK, y_B)


def reached(logits_BK: Tensor, y_B: Tensor, settings: AttackSettings, rank: int = 1) -> Tensor:
    """Bool (B,): `rank` classes stand above the label by more than the stop margin; targeted: the target stands first.

    A tie is not enough: an attack has to win, not to draw.
    """
    label_logit_B, others_BK = _split(logits_BK, y_B)
    if settings.targeted:
        return label_logit_B > others_BK.amax(dim=1) + settings.stop_margin
    rank = min(rank, logits_BK.shape[1] - 1)
    return others_BK.topk(rank, dim=1).values[:, -1] > label_logit_B + settings.stop_margin


def achieved(logits_BK: Tensor, y_B: Tensor, settings: AttackSettings) -> Tensor:
    """Int (B,): 2 where the stop rank is met, 1 where the label (or what keeps from the target) is at least beaten."""
    sign = -1.0 if settings.targeted else 1.0
    wins_B = (sign * logit_margin(logits_BK, y_B) > 0).int()
    return wins_B + reached(logits_BK, y_B, settings, settings.stop_rank).int() if settings.stop_rank else wins_B


def _split(logits_BK: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
    logits_BK = logits_BK.float()
    column_B1 = y_B[:, None]
    return logits_BK.gather(1, column_B1)[:, 0], logits_BK.scatter(1, column_B1, float("-inf"))


class WorstCase:
    """For each image the candidate that achieves most, and of those that achieve the same the highest one.

    Without the first rule a candidate of high loss that is still classified rightly could oust one that is not.
    """

    def __init__(self, x_BCHW: Tensor, y_B: Tensor, settings: AttackSettings, height: ObjectiveFunction) -> None:
        self.adv_BCHW = x_BCHW.clone()
        self.y_B, self.settings, self.height = y_B, settings, height
        self.achieved_B = torch.full_like(y_B, -1)
        self.height_B = torch.full_like(y_B, float("-inf"), dtype=torch.float32)

    def offer(self, where_b: Tensor, adv_bCHW: Tensor, logits_bK: Tensor) -> None:
        """Consider a candidate and its logits for each of the images at `where_b` (int64)."""
        y_b = self.y_B[where_b]
        achieved_b = achieved(logits_bK, y_b, self.settings).to(self.achieved_B.dtype)
        self._take(where_b, adv_bCHW, achieved_b, self.height(logits_bK, y_b))

    def merge(self, where_b: Tensor, other: WorstCase) -> None:
        """Consider what another search has kept for the images at `where_b` (int64)."""
        self._take(where_b, other.adv_BCHW, other.achieved_B, other.height_B)

    def open(self) -> Tensor:
        """Positions (int64) of the images that have not met the stop rank: all, where there is none."""
        everyone_B = torch.arange(len(self.y_B), device=self.y_B.device)
        return everyone_B[self.achieved_B < 2] if self.settings.stop_rank else everyone_B

    def _take(self, where_b: Tensor, adv_bCHW: Tensor, achieved_b: Tensor, height_b: Tensor) -> None:
        old_achieved_b, old_height_b = self.achieved_B[where_b], self.height_B[where_b]
        worse_b = (achieved_b > old_achieved_b) | ((achieved_b == old_achieved_b) & (height_b > old_height_b))
        # Selected rather than indexed by a mask: that would make a GPU wait for the CPU at every step.
        self.adv_BCHW[where_b] = torch.where(worse_b[:, None, None, None], adv_bCHW, self.adv_BCHW[where_b])
        self.achieved_B[where_b] = torch.where(worse_b, achieved_b, old_achieved_b)
        self.height_B[where_b] = torch.where(worse_b, height_b, old_height_b)
