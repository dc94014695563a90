"""Auto-PGD inside an epsilon matrix, which finds its step sizes by itself.

Source: Croce and Hein, ICML'20, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", Algorithm 1. Where the paper has one epsilon, here every pixel has its own; the random start,
the step and the momentum are all projected into the same box, so that a protected pixel never moves.

Legend: B images, C channels, H, W pixels, K classes, T targets; a small b is the part of the batch that is still under
attack.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from latcli.engine.attacks.objectives import (
    ObjectiveFunction,
    WorstCase,
    cross_entropy_odds,
    directed,
    dlr,
    logit_margin,
    targeted_dlr,
)
from latcli.engine.attacks.pgd import input_gradient, repeated_gradient, restart_seeds
from latcli.engine.attacks.settings import AttackSettings, Model, can_train, narrowed
from latcli.engine.attacks.threat import LinfBox, linf_box, part_of

#: Share of each step in the sum of step and momentum (the paper's alpha).
MOMENTUM = 0.75

#: A step size is halved where fewer than this share of the steps since the last checkpoint went up (the paper's rho).
RISING = 0.75


@can_train
def apgd_ce(
    model: Model, x_BCHW: Tensor, y_B: Tensor, eps_B1HW: Tensor, settings: AttackSettings, seeds_B: Tensor
) -> Tensor:
    """APGD on the cross entropy. See `Attack` for shapes.

    It has steps and restarts, no step size: step, schedule and objective of the settings are not looked at. Each image
    keeps the worst of all iterates of all restarts; with a stop rank it rests at the first that meets it. The cross
    entropy is climbed by its log odds, which have the same maximum and do not fade where the model is sure. Raises
    UsageError for the l2 norm.
    """
    climb = directed(cross_entropy_odds, settings)
    return _attack(model, x_BCHW, y_B, eps_B1HW, settings, seeds_B, climb)


def apgd_dlr(
    model: Model, x_BCHW: Tensor, y_B: Tensor, eps_B1HW: Tensor, settings: AttackSettings, seeds_B: Tensor
) -> Tensor:
    """APGD on the difference of logits ratio; all else as in `apgd_ce`.

    Towards a target that y_B names it climbs the logit margin instead: while the target is far behind, the ratio also
    grows by spreading the classes before it, and stays there.
    """
    climb = directed(logit_margin if settings.targeted else dlr, settings)
    return _attack(model, x_BCHW, y_B, eps_B1HW, settings, seeds_B, climb)


def apgd_t(
    model: Model, x_BCHW: Tensor, y_B: Tensor, eps_B1HW: Tensor, settings: AttackSettings, seeds_B: Tensor
) -> Tensor:
    """APGD on the targeted difference of logits ratio, once for each of the `targets` likeliest other classes.

    With fewer classes than that, all others are targets; each has `steps` steps and `restarts` restarts. Of all
    iterates each image keeps the one whose logit margin is worst. Where `targeted` says that y_B itself names the
    class to reach, there is one target, and this is `apgd_dlr`. Else as `apgd_ce`.
    """
    if settings.targeted:
        return apgd_dlr(model, x_BCHW, y_B, eps_B1HW, settings, seeds_B)
    target_BT = _likeliest_others(model, x_BCHW, y_B, settings.targets)
    return _attack(model, x_BCHW, y_B, eps_B1HW, settings, seeds_B, logit_margin, target_BT)


@torch.no_grad()
def _likeliest_others(model: Model, x_BCHW: Tensor, y_B: Tensor, targets: int) -> Tensor:
    """target_BT: the classes other than the label that stand highest on the images as they are."""
    logits_BK = model(x_BCHW).float().scatter(1, y_B[:, None], float("-inf"))
    return logits_BK.topk(min(targets, logits_BK.shape[1] - 1), dim=1).indices


def _attack(
    model: Model,
    x_BCHW: Tensor,
    y_B: Tensor,
    eps_B1HW: Tensor,
    settings: AttackSettings,
    seeds_B: Tensor,
    height: ObjectiveFunction,
    target_BT: Tensor | None = None,
) -> Tensor:
    """One climb of `height` for each restart, or of the targeted ratio for each restart and target."""
    box = linf_box(x_BCHW, eps_B1HW, settings)
    worst = WorstCase(x_BCHW, y_B, settings, height)
    targets = 1 if target_BT is None else target_BT.shape[1]
    restarts = settings.restarts if settings.random_start else 1  # without chance all restarts are the same
    for index in range(restarts * targets):
        open_b = worst.open()
        if not len(open_b):
            break
        part = part_of(box, open_b)
        start_bCHW = part.random_start(restart_seeds(seeds_B[open_b], index)) if settings.random_start else part.x_BCHW
        target_b = y_B[open_b] if target_BT is None else target_BT[open_b, index % targets]
        toward = targeted_dlr if target_BT is not None else _without_target(height)
        ascent = _Ascent.begin(toward, part, start_bCHW.clone(), y_B[open_b], target_b, open_b)
        _climb(narrowed(model, open_b), ascent, worst, settings)
    return worst.adv_BCHW


@cache
def _without_target(height: ObjectiveFunction) -> ObjectiveFunction:
    return lambda logits_bK, y_b, _target_b: height(logits_bK, y_b)


def _climb(model: Model, ascent: _Ascent, worst: WorstCase, settings: AttackSettings) -> None:
    """The paper's Algorithm 1; every iterate is offered to `worst`, and an image that meets the stop rank leaves."""
    checks = checkpoints(settings.steps)
    checked = 0
    gradient_of = input_gradient if settings.stop_rank else repeated_gradient  # batches that shrink are never the same
    for index in range(settings.steps + 1):
        given = (ascent.adv_bCHW, ascent.y_b, ascent.toward, ascent.target_b)
        gradient_bCHW, logits_bK = gradient_of(model, *given)
        worst.offer(ascent.where_b, ascent.adv_bCHW, logits_bK)
        if settings.stop_rank:
            kept_b = (worst.achieved_B[ascent.where_b] < 2).nonzero()[:, 0]
            if not len(kept_b):
                return
            if len(kept_b) < len(ascent.y_b):
                model, ascent = narrowed(model, kept_b), ascent.narrowed(kept_b)
                gradient_bCHW, logits_bK = gradient_bCHW[kept_b], logits_bK[kept_b]
        if index == settings.steps:
            return
        ascent.note(gradient_bCHW, ascent.toward(logits_bK, ascent.y_b, ascent.target_b))
        if index == 0:  # the paper's w_0, from which "no better since the last checkpoint" is counted
            ascent.checked_height_b = ascent.best_height_b
        if index in checks:
            ascent.check(index - checked)
            checked = index
        ascent.step(MOMENTUM if index else 1.0)


def checkpoints(steps: int) -> list[int]:
    """The steps w_j = ceil(p_j N) at which step sizes are looked at, as in the paper's section 3.3.

    p_0 = 0, p_1 = .22, p_{j+1} = p_j + max(p_j - p_{j-1} - .03, .06): in whole percent, so that nothing is rounded.
    """
    percent, stretch = 22, 22
    found = []
    while percent < 100:
        found.append(-(-percent * steps // 100))
        stretch = max(stretch - 3, 6)
        percent += stretch
    return sorted({step for step in found if step < steps})


@dataclass
class _Ascent:
    """Where each image under attack stands; the first axis of every tensor is that of the images."""

    toward: ObjectiveFunction  # of logits, labels and targets
    box: LinfBox
    y_b: Tensor
    target_b: Tensor
    where_b: Tensor  # position in the whole batch
    adv_bCHW: Tensor
    last_bCHW: Tensor  # the iterate before
    gradient_bCHW: Tensor
    height_b: Tensor
    best_bCHW: Tensor  # the highest iterate so far, its gradient and its height
    best_gradient_bCHW: Tensor
    best_height_b: Tensor
    share_b: Tensor  # the step size as a share of each pixel's epsilon
    rises_b: Tensor  # how many steps went up since the last checkpoint
    halved_b: Tensor  # whether the step size was halved at the last checkpoint
    checked_height_b: Tensor  # the best height at the last checkpoint

    @classmethod
    def begin(
        cls, toward: ObjectiveFunction, box: LinfBox, start_bCHW: Tensor, y_b: Tensor, target_b: Tensor, where_b: Tensor
    ) -> _Ascent:
        """Before the first gradient is known. The first step is twice each pixel's epsilon, as in the paper."""
        nothing_bCHW = torch.zeros_like(start_bCHW)
        lowest_b = torch.full_like(y_b, float("-inf"), dtype=start_bCHW.dtype)
        places = (start_bCHW, start_bCHW, nothing_bCHW, lowest_b, start_bCHW, nothing_bCHW, lowest_b)
        counts = (torch.full_like(lowest_b, 2.0), torch.zeros_like(y_b), torch.zeros_like(y_b, dtype=torch.bool))
        return cls(toward, box, y_b, target_b, where_b, *places, *counts, lowest_b)

    def narrowed(self, kept_b: Tensor) -> _Ascent:
        """The same for some of the images."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        cut: dict[str, Any] = {name: part[kept_b] for name, part in parts.items() if isinstance(part, Tensor)}
        return replace(self, box=part_of(self.box, kept_b), **cut)

    def note(self, gradient_bCHW: Tensor, height_b: Tensor) -> None:
        """Record the model's output for the present iterate."""
        # The very first height rises from -inf, and no step has led there.
        self.rises_b = self.rises_b + ((height_b > self.height_b) & self.height_b.isfinite())
        self.gradient_bCHW, self.height_b = gradient_bCHW, height_b
        higher_b = height_b > self.best_height_b
        self.best_bCHW, self.best_gradient_bCHW = _choose(
            higher_b, (self.adv_bCHW, gradient_bCHW), (self.best_bCHW, self.best_gradient_bCHW)
        )
        self.best_height_b = torch.where(higher_b, height_b, self.best_height_b)

    def check(self, steps: int) -> None:
        """At a checkpoint, `steps` after the last: halve where the search no longer gets on, and go back to its best.

        That is where too few steps went up (the paper's condition 1), or where neither the step size nor the best
        height has changed since the last checkpoint (condition 2).
        """
        stuck_b = ~self.halved_b & (self.best_height_b == self.checked_height_b)
        self.halved_b = (self.rises_b < RISING * steps) | stuck_b
        self.share_b = torch.where(self.halved_b, self.share_b / 2, self.share_b)
        self.adv_bCHW, self.gradient_bCHW = _choose(
            self.halved_b, (self.best_bCHW, self.best_gradient_bCHW), (self.adv_bCHW, self.gradient_bCHW)
        )
        self.height_b = torch.where(self.halved_b, self.best_height_b, self.height_b)
        self.checked_height_b, self.rises_b = self.best_height_b, torch.zeros_like(self.rises_b)

    def step(self, share_of_step: float) -> None:
        """Along the sign of the gradient, each pixel by its share of its own epsilon, and on as the last step went."""
        box, adv_bCHW = self.box, self.adv_bCHW
        size_bCHW = self.share_b[:, None, None, None] * box.eps_B1HW
        ahead_bCHW = box.project_(torch.addcmul(adv_bCHW, self.gradient_bCHW.sign(), size_bCHW))
        moved_bCHW = share_of_step * (ahead_bCHW - adv_bCHW) + (1.0 - share_of_step) * (adv_bCHW - self.last_bCHW)
        self.adv_bCHW, self.last_bCHW = box.project_(moved_bCHW.add_(adv_bCHW)), adv_bCHW


def _choose(first_b: Tensor, yes: tuple[Tensor, Tensor], no: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Both tensors of `yes` where `first_b`, of `no` elsewhere, image by image."""
    first_b111 = first_b[:, None, None, None]
    return torch.where(first_b111, yes[0], no[0]), torch.where(first_b111, yes[1], no[1])
