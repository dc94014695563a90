"""Examples made on each model, tried on every other; must not know how models were trained, files or tables.

Source: Papernot, McDaniel and Goodfellow, "Transferability in Machine Learning" (2016): the matrix of source and target
models. A target that does worse on another's examples than on its own has gradients that mislead the attack (Athalye,
Carlini and Wagner, ICML'18, section 3.1).

Legend: B images, C channels, H, W pixels. eps_B1HW is the epsilon matrix in [0, 1] image scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from latcli.engine.attacks.contract import run_attack
from latcli.engine.attacks.settings import Attack, AttackSettings, Model
from latcli.engine.datasets.base import Images
from latcli.engine.evaluation.outcomes import Outcomes, judge, refuse_targets
from latcli.engine.noise import derive_seed, item_seeds
from latcli.errors import LatcliError, UsageError


@dataclass(frozen=True, eq=False)
class Contender:
    """A model under its name: `fast` is the form in which gradients are computed, `score` the one that scores, fp32."""

    name: str
    fast: Model
    score: Model


@dataclass(frozen=True)
class TransferCell:
    """The target's mean cross entropy and accuracy (0 to 1) on n examples made on the source; None: not attacked."""

    source: str | None
    target: str
    n: int
    loss: float
    accuracy: float


def transfer_matrix(
    contenders: Sequence[Contender],
    batches: Iterable[tuple[Images, torch.Tensor]],
    attack: Attack,
    settings: AttackSettings,
    seed: int,
) -> list[TransferCell]:
    """Every contender's examples, scored on every contender, row by row; the first row is the images as they are.

    `batches` are images with their eps_B1HW. Random starts come from `seed` and the image's number in its set alone, so
    all sources start at the same images. The examples keep the contract, which is checked. All images count, those too
    that a model has wrong anyway.

    Raises UsageError for a targeted attack or two contenders of one name, ContractError, and LatcliError for no images
    or what `judge` finds.
    """
    refuse_targets(settings)
    names = [contender.name for contender in contenders]
    if len(set(names)) < len(names):
        raise UsageError("two models have the same name", "give each model once")
    sums: dict[tuple[str | None, str], list[tuple[int, float, int]]] = {}
    for images, eps_B1HW in batches:
        seeds_B = item_seeds(derive_seed(seed, "transfer"), images.samples_B)
        part = (images.x_BCHW, images.y_B, eps_B1HW, settings, seeds_B)
        # The images as they are come first, so that a model that does not fit them is not attacked at all.
        for source in (None, *contenders):
            adv_BCHW = run_attack(attack, source.fast, *part) if source else images.x_BCHW
            for target in contenders:
                found = judge(target.score, adv_BCHW, images.y_B)
                sums.setdefault((source.name if source else None, target.name), []).append(_summed(found))
    if not any(n for parts in sums.values() for n, _, _ in parts):
        raise LatcliError("there are no images to try the models on", "choose a data set that has some")
    return [_cell(source, target, parts) for (source, target), parts in sums.items()]


def _summed(found: Outcomes) -> tuple[int, float, int]:
    return len(found.loss_B), float(found.loss_B.sum()), int(found.right_B.sum())


def _cell(source: str | None, target: str, parts: Sequence[tuple[int, float, int]]) -> TransferCell:
    n = sum(count for count, _, _ in parts)
    return TransferCell(source, target, n, sum(loss for _, loss, _ in parts) / n, sum(right for *_, right in parts) / n)
