"""Accuracy against epsilon and against steps, each in one sweep.

Both curves go upwards, and an image leaves as soon as it is wrong. The example that it is wrong at stays allowed at
every larger epsilon, and an attacker with more steps may stop earlier; so it stays wrong, and need not be attacked
again. Accuracy is therefore that of the worst case over all points up to here: never above what an attack of that
point alone leaves, and never rising. For that reason a curve cannot show that a larger epsilon helps the model (a sign
of masked gradients): that takes independent attacks.

Legend: B images of a batch, b those that are still right, C channels, H, W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from torch import Tensor

from latcli.engine.attacks.contract import check_contract, run_attack
from latcli.engine.attacks.pgd import climb, pgd, restart_seeds
from latcli.engine.attacks.settings import Attack, AttackSettings, Model, narrowed, refuse_targets
from latcli.engine.attacks.threat import threat_for
from latcli.engine.datasets.base import Images
from latcli.engine.judge import judge
from latcli.engine.noise import derive_seed, item_seeds
from latcli.errors import LatcliError, UsageError
from latcli.results import CurvePoint

#: attempt(value, open_b) -> adv_bCHW: examples for the images at the positions open_b, at one point of the curve.
Attempt = Callable[[float, Tensor], Tensor]


@dataclass(frozen=True)
class Curve:
    """At which value each image first was wrong: 0 without any attack, None where never.

    `values` ascend. `samples` are the images' numbers in their set, `fell_at` has one entry for each.
    """

    axis: Literal["epsilon", "steps"]
    values: tuple[float, ...]
    samples: tuple[int, ...]
    fell_at: tuple[float | None, ...]

    @property
    def points(self) -> tuple[CurvePoint, ...]:
        """The curve, from 0 (no attack) on."""
        fell = [math.inf if value is None else value for value in self.fell_at]
        n = len(fell)
        right = [sum(one > value for one in fell) for value in (0.0, *self.values)]
        points = [CurvePoint(0.0, n, right[0] / n, 0)]
        steps = zip(self.values, pairwise(right), strict=True)
        return (*points, *(CurvePoint(value, n, after / n, before) for value, (before, after) in steps))


def accuracy_against_epsilon(
    attack: Attack,
    fast: Model,
    score: Model,
    batches: Iterable[tuple[Images, Tensor]],
    epsilons: Sequence[float],
    settings: AttackSettings,
    seed: int,
) -> Curve:
    """The curve for ascending `epsilons` in (0, 1].

    `batches` are images with share_B1HW, the epsilon matrix of epsilon 1: each pixel's share of epsilon. `fast` is
    attacked, `score` (fp32) says what is right. Random starts are the same for each epsilon but for its size.

    Raises UsageError for epsilons that do not ascend or a targeted attack, ContractError, and LatcliError for no images
    or as `judge` does.
    """
    require_ascending(epsilons, "epsilons")
    if epsilons[-1] > 1.0:
        raise UsageError(f"epsilon is {epsilons[-1]:g}, not in (0, 1]", "it is in image scale: 8/255 or 0.031")
    refuse_targets(settings)

    def prepare(images: Images, share_B1HW: Tensor, seeds_B: Tensor) -> Attempt:
        def attempt(epsilon: float, open_b: Tensor) -> Tensor:
            x_bCHW, y_b = images.x_BCHW[open_b], images.y_B[open_b]
            eps_b1HW = share_B1HW[open_b] * epsilon
            return run_attack(attack, narrowed(fast, open_b), x_bCHW, y_b, eps_b1HW, settings, seeds_B[open_b])

        return attempt

    return _sweep("epsilon", score, batches, epsilons, prepare, seed)


def accuracy_against_steps(
    attack: Attack,
    fast: Model,
    score: Model,
    batches: Iterable[tuple[Images, Tensor]],
    steps: Sequence[int],
    settings: AttackSettings,
    seed: int,
) -> Curve:
    """The curve for ascending numbers of `steps`; those of the settings are not looked at.

    `batches` are images with their eps_B1HW; for the rest see `accuracy_against_epsilon`. PGD that moves each step by
    the same, given share of epsilon takes the same way whatever its number of steps, so all points lie on one run, and
    the curve costs as much as its last point. Wherever the way depends on the number of steps, each point is a run of
    its own: a schedule that falls, a step of None (the default is a share of the number of steps), several
    restarts, a stop rank, and other attacks.
    """
    require_ascending(steps, "numbers of steps")
    refuse_targets(settings)
    same_way = settings.schedule == "constant" and settings.step is not None
    one_run = attack is pgd and same_way and settings.restarts == 1 and not settings.stop_rank

    def prepare(images: Images, eps_B1HW: Tensor, seeds_B: Tensor) -> Attempt:
        if one_run:
            return _OneRun(fast, images, eps_B1HW, settings, seeds_B)

        def attempt(count: float, open_b: Tensor) -> Tensor:
            x_bCHW, y_b, eps_b1HW = images.x_BCHW[open_b], images.y_B[open_b], eps_B1HW[open_b]
            counted = replace(settings, steps=int(count))
            return run_attack(attack, narrowed(fast, open_b), x_bCHW, y_b, eps_b1HW, counted, seeds_B[open_b])

        return attempt

    return _sweep("steps", score, batches, steps, prepare, seed)


class _OneRun:
    """PGD that goes on from where the last point of the curve left it."""

    def __init__(
        self, fast: Model, images: Images, eps_B1HW: Tensor, settings: AttackSettings, seeds_B: Tensor
    ) -> None:
        self.fast, self.images, self.eps_B1HW, self.settings = fast, images, eps_B1HW, settings
        self.threat = threat_for(images.x_BCHW, eps_B1HW, settings)
        start = settings.random_start
        self.adv_BCHW = self.threat.random_start(restart_seeds(seeds_B, 0)) if start else images.x_BCHW.clone()
        self.done = 0

    def __call__(self, count: float, open_b: Tensor) -> Tensor:
        """The iterates after `count` steps."""
        further = replace(self.settings, steps=int(count) - self.done)
        model, threat, y_b = narrowed(self.fast, open_b), self.threat.narrowed(open_b), self.images.y_B[open_b]
        adv_bCHW = climb(model, self.adv_BCHW[open_b], y_b, threat, further).detach()
        check_contract(self.images.x_BCHW[open_b], adv_bCHW, self.eps_B1HW[open_b], self.settings.radius)
        self.adv_BCHW[open_b] = adv_bCHW
        self.done = int(count)
        return adv_bCHW


def _sweep(
    axis: Literal["epsilon", "steps"],
    score: Model,
    batches: Iterable[tuple[Images, Tensor]],
    values: Sequence[float],
    prepare: Callable[[Images, Tensor, Tensor], Attempt],
    seed: int,
) -> Curve:
    samples: list[int] = []
    fell_at: list[float | None] = []
    for images, matrix_B1HW in batches:
        seeds_B = item_seeds(derive_seed(seed, "curve"), images.samples_B)
        fell_at += _falls(score, images, values, prepare(images, matrix_B1HW, seeds_B))
        samples += images.samples_B.tolist()
    if not samples:
        raise LatcliError("there are no images to attack", "choose a data set with test images")
    return Curve(axis, tuple(map(float, values)), tuple(samples), tuple(fell_at))


def _falls(score: Model, images: Images, values: Sequence[float], attempt: Attempt) -> list[float | None]:
    """At which value each image is wrong first; only those that are still right are attacked."""
    right_B = judge(score, images.x_BCHW, images.y_B).right_B
    fell_at: list[float | None] = [None if right else 0.0 for right in right_B.tolist()]
    open_b = right_B.nonzero()[:, 0].to(images.y_B.device)
    for value in values:
        if not len(open_b):
            break
        right_b = judge(narrowed(score, open_b), attempt(value, open_b), images.y_B[open_b]).right_B
        right_b = right_b.to(open_b.device)
        for index in open_b[~right_b].tolist():
            fell_at[index] = float(value)
        open_b = open_b[right_b]
    return fell_at


def require_ascending(values: Sequence[float], what: str) -> None:
    """Raise UsageError for values that are no curve's; `what` names them."""
    if not values or not values[0] > 0 or any(not low < high for low, high in pairwise(values)):
        raise UsageError(f"the {what} of a curve are not ascending and above 0", "for example 0.1 0.2 0.3, or 1 10 100")
