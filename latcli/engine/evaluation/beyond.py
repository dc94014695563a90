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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from latcli.engine.attacks.contract import run_attack
from latcli.engine.attacks.settings import Attack, AttackSettings, Model, narrowed, refuse_targets
from latcli.engine.datasets.base import Images
from latcli.engine.evaluation.matrix import Subject
from latcli.engine.evaluation.settings import require_ascending
from latcli.engine.judge import Outcomes, judge
from latcli.engine.noise import derive_seed, item_seeds
from latcli.errors import LatcliError, UsageError
from latcli.results import CurvePoint, TransferCell


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
    return _sweep(
        "epsilon", attack, fast, score, batches, [(float(epsilon), epsilon, settings) for epsilon in epsilons], seed
    )


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

    `batches` are images with their eps_B1HW; for the rest see `accuracy_against_epsilon`.
    """
    require_ascending(steps, "numbers of steps")
    points = [(float(count), 1.0, replace(settings, steps=count)) for count in steps]
    return _sweep("steps", attack, fast, score, batches, points, seed)


def _sweep(
    axis: Literal["epsilon", "steps"],
    attack: Attack,
    fast: Model,
    score: Model,
    batches: Iterable[tuple[Images, Tensor]],
    points: Sequence[tuple[float, float, AttackSettings]],
    seed: int,
) -> Curve:
    """`points` are the value on the axis, what the matrices are multiplied by, and the settings of the attack there."""
    refuse_targets(points[0][2])
    samples: list[int] = []
    fell_at: list[float | None] = []
    for images, matrix_B1HW in batches:
        seeds_B = item_seeds(derive_seed(seed, "curve"), images.samples_B)
        right_B = judge(score, images.x_BCHW, images.y_B).right_B
        found: list[float | None] = [None if right else 0.0 for right in right_B.tolist()]
        open_b = right_B.nonzero()[:, 0].to(images.y_B.device)
        for value, scale, settings in points:
            if not len(open_b):
                break
            part = (images.x_BCHW[open_b], images.y_B[open_b], matrix_B1HW[open_b] * scale, settings, seeds_B[open_b])
            adv_bCHW = run_attack(attack, narrowed(fast, open_b), *part)
            right_b = judge(narrowed(score, open_b), adv_bCHW, images.y_B[open_b]).right_B.to(open_b.device)
            for index in open_b[~right_b].tolist():
                found[index] = value
            open_b = open_b[right_b]
        fell_at += found
        samples += images.samples_B.tolist()
    if not samples:
        raise LatcliError("there are no images to attack", "choose a data set with test images")
    return Curve(axis, tuple(value for value, _, _ in points), tuple(samples), tuple(fell_at))


def transfer_matrix(
    subjects: Sequence[Subject],
    name: str,
    batches: Iterable[tuple[Images, Tensor]],
    attack: Attack,
    settings: AttackSettings,
    seed: int,
) -> list[TransferCell]:
    """Every model's examples, scored on every model, row by row; the first row is the images as they are.

    `name` is the input's, `batches` are images with their eps_B1HW. Random starts come from `seed` and the image's
    number in its set alone, so all sources start at the same images. The examples keep the contract, which is checked.
    All images count, those too that a model has wrong anyway.

    Raises UsageError for a targeted attack or two models of one name, ContractError, and LatcliError for no images or
    as `judge` does.
    """
    refuse_targets(settings)
    if len({subject.name for subject in subjects}) < len(subjects):
        raise UsageError("two models have the same name", "give each model once")
    found: dict[tuple[str | None, str], list[Outcomes]] = {}
    for images, eps_B1HW in batches:
        seeds_B = item_seeds(derive_seed(seed, "transfer"), images.samples_B)
        part = (images.x_BCHW, images.y_B, eps_B1HW, settings, seeds_B)
        # The images as they are come first, so that a model that does not fit them is not attacked at all.
        for source in (None, *subjects):
            adv_BCHW = run_attack(attack, source.fast, *part) if source else images.x_BCHW
            for target in subjects:
                outcome = judge(target.net, adv_BCHW, images.y_B, target.name)
                found.setdefault((source.name if source else None, target.name), []).append(outcome)
    cells = []
    for (origin, tried), outcomes in found.items():
        loss_N = torch.cat([one.loss_B for one in outcomes])
        right_N = torch.cat([one.right_B for one in outcomes])
        if not len(loss_N):
            break
        mean = float(right_N.double().mean())
        cells.append(TransferCell(name, origin, tried, len(loss_N), float(loss_N.mean()), mean))
    if not cells:
        raise LatcliError("there are no images to try the models on", "choose a data set with test images")
    return cells
