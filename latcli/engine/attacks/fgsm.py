"""The fast gradient sign method inside an epsilon matrix: one whole step."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from latcli.engine.attacks.pgd import pgd
from latcli.engine.attacks.settings import AttackSettings, Model, can_train


@can_train
def fgsm(
    model: Model, x_BCHW: Tensor, y_B: Tensor, eps_B1HW: Tensor, settings: AttackSettings, seeds_B: Tensor
) -> Tensor:
    """One step of the full epsilon from the image itself (Goodfellow et al., ICLR'15): PGD with one step of share 1.

    Steps, step size, schedule, restarts and random start of the settings are not looked at.
    """
    single = replace(settings, steps=1, step=1.0, schedule="constant", restarts=1, random_start=False, stop_rank=0)
    return pgd(model, x_BCHW, y_B, eps_B1HW, single, seeds_B)
