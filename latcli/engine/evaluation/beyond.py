"""What is measured beside the matrix: examples of each model on the others, accuracy against epsilon and steps.

A curve goes upwards in one sweep, and an image leaves as soon as it is wrong. The example that it is wrong at stays
allowed at every larger epsilon, and an attacker with more steps may stop earlier; so it stays wrong, and need not be
attacked again. Accuracy is therefore that of the worst case over all points up to here: never above what an attack of
that point alone leaves, and never rising. For that reason a curve cannot show that a larger epsilon helps the model (a
sign of masked gradients): that takes independent attacks.

Source of the transfer: Papernot, McDaniel and Goodfellow, "Transferability in Machine Learning" (2016): the matrix of
source and target models. A target that does worse on another's examples than on its own has gradients that mislead the
attack (Athalye, Carlini and Wagner, ICML'18, section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from latcli.engine.attacks.contract import run_attack
from latcli.engine.attacks.settings import Attack, AttackSettings, Model, refuse_targets
from latcli.engine.datasets.base import Images
from latcli.engine.evaluation.matrix import ATTACKED, Evaluation, InputType, Subject, require_ascending
from latcli.engine.evaluation.reliance import background_reliance, photos_of
from latcli.engine.models.classifier import Classifier
from latcli.engine.noise import derive_seed, item_seeds
from latcli.engine.scoring import Outcomes, judge
from latcli.errors import LatcliError, UsageError
from latcli.results import AccuracyCurve, CurvePoint, RelianceRow, TransferCell

Axis = Literal["epsilon", "steps"]
Batches = Iterable[tuple[Images, Tensor]]
Row = TransferCell | AccuracyCurve | RelianceRow


@dataclass(frozen=True)
class Part:
    """A stretch of the work of which nothing is kept before it is whole.

    name: unique, and its first word says what its rows are. text: for the progress bar, which counts `images`.
    measure: gives its rows, and tells its argument how many more images are done.
    """

    name: str
    text: str
    images: int
    measure: Callable[[Callable[[int], None]], Sequence[Row]]


def parts_of(evaluation: Evaluation, ids: Sequence[str], contenders: Collection[str]) -> Iterator[Part]:
    """The parts that the settings ask for: transfer between the contenders, each model's curves, each one's reliance.

    `ids` are those of the evaluation's subjects, by which rows and contenders are named. What the parts measure raises
    as the functions below do.
    """
    settings, n = evaluation.settings, len(evaluation.chosen_N)
    how = (settings.attack_settings(), settings.seed)
    named = dict(zip(ids, evaluation.subjects, strict=True))
    rivals = [replace(subject, name=model) for model, subject in named.items() if model in contenders]

    def batches(name: InputType, epsilon: float, done: Callable[[int], None]) -> Batches:
        for images, eps_B1HW in evaluation.attacked(name, epsilon):
            yield images, eps_B1HW
            done(len(images.y_B))

    def transfer(name: InputType, done: Callable[[int], None]) -> list[TransferCell]:
        return transfer_matrix(rivals, name, batches(name, settings.epsilon, done), evaluation.attack_function, *how)

    def curve(
        axis: Axis, values: Sequence[float], name: InputType, model: str, done: Callable[[int], None]
    ) -> list[AccuracyCurve]:
        given = batches(name, 1.0 if axis == "epsilon" else settings.epsilon, done)
        subject = named[model]
        fell = fell_at(axis, values, evaluation.attack_function, subject.fast, subject.net, given, *how)
        return [AccuracyCurve(model, name, axis, points_of(values, fell))]

    def reliance(model: str, done: Callable[[int], None]) -> list[RelianceRow]:
        classifier = named[model].net
        assert isinstance(classifier, Classifier)  # on photos nothing stands before it
        seeds = range(settings.seed, settings.seed + settings.donor_seeds)
        return [background_reliance(model, classifier, photos_of(evaluation.data), seeds, watch=lambda _: done(1))]

    for name in ATTACKED if rivals else ():
        yield Part(f"transfer {name}", f"transfer, {name}", n, partial(transfer, name))
    axes: dict[Axis, Sequence[float]] = {"epsilon": settings.curve_epsilons, "steps": settings.curve_steps}
    for model, subject in named.items():
        for name in ATTACKED:
            for axis, values in axes.items():
                if values:
                    text = f"{subject.name}, {name}, {axis}"
                    yield Part(f"curve {axis} {name} {model}", text, n, partial(curve, axis, values, name, model))
    for model, subject in named.items() if settings.donor_seeds else ():
        text = f"{subject.name}, background reliance"
        yield Part(f"reliance {model}", text, evaluation.data.test_count, partial(reliance, model))


def transfer_matrix(
    subjects: Sequence[Subject], name: str, batches: Batches, attack: Attack, settings: AttackSettings, seed: int
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
    if not found:
        raise _no_images()
    cells = []
    for (origin, tried), outcomes in found.items():
        loss_N = torch.cat([one.loss_B for one in outcomes])
        right_N = torch.cat([one.right_B for one in outcomes]).double()
        cells.append(TransferCell(name, origin, tried, len(loss_N), float(loss_N.mean()), float(right_N.mean())))
    return cells


def fell_at(
    axis: Axis,
    values: Sequence[float],
    attack: Attack,
    fast: Model,
    score: Model,
    batches: Batches,
    settings: AttackSettings,
    seed: int,
) -> tuple[float | None, ...]:
    """At which of the ascending values on the axis each image first was wrong: 0 without any attack, None where never.

    `batches` are images with their eps_B1HW; on the axis `epsilon` with the matrix of epsilon 1, each pixel's share of
    epsilon. `fast` is attacked, `score` (fp32) says what is right. Random starts are the same for each value, but for
    the size of epsilon; on the axis `steps` those of the settings are not looked at.

    Raises UsageError for values that do not ascend or a targeted attack, ContractError, and LatcliError for no images
    or as `judge` does.
    """
    require_ascending(values, f"values of {axis}")
    refuse_targets(settings)
    found: list[float | None] = []
    for images, matrix_B1HW in batches:
        seeds_B = item_seeds(derive_seed(seed, "curve"), images.samples_B)
        right_B = judge(score, images.x_BCHW, images.y_B).right_B
        fell: list[float | None] = [None if right else 0.0 for right in right_B.tolist()]
        open_b = right_B.nonzero()[:, 0].to(images.y_B.device)
        for value in values:
            if not len(open_b):
                break
            scale, how = (value, settings) if axis == "epsilon" else (1.0, replace(settings, steps=int(value)))
            part = (images.x_BCHW[open_b], images.y_B[open_b], matrix_B1HW[open_b] * scale, how, seeds_B[open_b])
            adv_bCHW = run_attack(attack, fast, *part)
            right_b = judge(score, adv_bCHW, images.y_B[open_b]).right_B.to(open_b.device)
            for index in open_b[~right_b].tolist():
                fell[index] = float(value)
            open_b = open_b[right_b]
        found += fell
    if not found:
        raise _no_images()
    return tuple(found)


def points_of(values: Sequence[float], fell: Sequence[float | None]) -> tuple[CurvePoint, ...]:
    """The curve over the images of `fell_at`, from 0 (no attack) on; those who are right are attacked next."""
    ends = [math.inf if value is None else value for value in fell]
    n = len(ends)
    right = [sum(one > value for one in ends) for value in (0.0, *values)]
    points = [CurvePoint(0.0, n, right[0] / n, 0)]
    steps = zip(values, pairwise(right), strict=True)
    return (*points, *(CurvePoint(float(value), n, after / n, before) for value, (before, after) in steps))


def _no_images() -> LatcliError:
    return LatcliError("there are no images to attack", "choose a data set with test images")
