"""Loss and accuracy of a network on a data set, in fp32, natural and attacked; must not know how it was trained.

Legend: B images, C channels, H, W pixels.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional

from latcli.engine.attacks.contract import run_attack
from latcli.engine.attacks.objectives import is_right
from latcli.engine.attacks.pgd import pgd
from latcli.engine.attacks.settings import AttackSettings, Model
from latcli.engine.datasets.base import TrainingData
from latcli.engine.noise import derive_seed, item_seeds
from latcli.engine.training.regimes import masks, regime_epsilon
from latcli.engine.training.settings import TrainSettings
from latcli.results import Score

#: Images scored together: many small ones, or as many larger ones as have no more pixels.
_MOST, _PIXELS = 250, 250 * 96 * 96


@torch.no_grad()
def natural_score(net: nn.Module, data: TrainingData) -> Score:
    """The network's score on all test images as they are; it must be in evaluation mode."""
    requests = torch.split(torch.arange(data.test_count), _together(data))
    return _mean([_score(net, images.x_BCHW, images.y_B) for images in data.testing(requests)])


def adversarial_score(
    net: nn.Module, fast: Model, data: TrainingData, settings: TrainSettings, *, images: int, steps: int
) -> Score:
    """The score under the regime's own attack: PGD of `steps` at the full epsilon, on `images` test images.

    The images are every so many-th of the test set. They are sought on `fast`, checked against the contract and scored
    on `net`. Raises ContractError.
    """
    count = min(images, data.test_count)
    chosen_N = torch.arange(count) * data.test_count // count
    attack = AttackSettings(steps=steps, schedule="constant")
    scores = []
    for batch in data.testing(torch.split(chosen_N, _together(data))):
        seeds_B = item_seeds(derive_seed(settings.seed, "score"), batch.samples_B)
        mask_B1HW = masks(batch, settings.mask_from, settings.center)
        eps_B1HW = regime_epsilon(settings.regime, mask_B1HW, settings.epsilon, seeds_B)
        adv_BCHW = run_attack(pgd, fast, batch.x_BCHW, batch.y_B, eps_B1HW, attack, seeds_B)
        with torch.no_grad():
            scores.append(_score(net, adv_BCHW, batch.y_B))
    return _mean(scores)


def _together(data: TrainingData) -> int:
    _, H, W = data.image_shape
    return max(1, min(_MOST, _PIXELS // (H * W)))


def _score(net: nn.Module, x_BCHW: torch.Tensor, y_B: torch.Tensor) -> Score:
    logits_BK = net(x_BCHW).float()
    losses = float(functional.cross_entropy(logits_BK, y_B, reduction="sum"))
    return Score(len(y_B), losses, float(is_right(logits_BK, y_B).sum()))


def _mean(sums: list[Score]) -> Score:
    n = sum(one.n for one in sums)
    return replace(sums[0], n=n, loss=sum(s.loss for s in sums) / n, accuracy=sum(s.accuracy for s in sums) / n)
