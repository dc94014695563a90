"""Examples made on each model, tried on every other.

Source: Papernot, McDaniel and Goodfellow, "Transferability in Machine Learning" (2016): the matrix of source and target
models. A target that does worse on another's examples than on its own has gradients that mislead the attack (Athalye,
Carlini and Wagner, ICML'18, section 3.1).

Legend: B images, C channels, H, W pixels. eps_B1HW is the epsilon matrix in [0, 1] image scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from latcli.engine.attacks.contract import run_attack
from latcli.engine.attacks.settings import Attack, AttackSettings, refuse_targets
from latcli.engine.datasets.base import Images
from latcli.engine.evaluation.matrix import Subject
from latcli.engine.judge import Outcomes, judge
from latcli.engine.noise import derive_seed, item_seeds
from latcli.errors import LatcliError, UsageError
from latcli.results import TransferCell


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
