"""Loss and accuracy of a network on a data set, in fp32: natural, and under its regime's own attack.

Legend: B images, C channels, H, W pixels, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from latcli.engine.attacks.contract import run_attack
from latcli.engine.attacks.pgd import pgd
from latcli.engine.attacks.settings import AttackSettings, Model
from latcli.engine.datasets.base import TrainingData
from latcli.engine.judge import judge
from latcli.engine.noise import derive_seed, item_seeds
from latcli.engine.precision import gradient_model
from latcli.engine.training.loop import Trainer
from latcli.engine.training.regimes import masks, regime_epsilon
from latcli.engine.training.settings import TrainSettings
from latcli.results import Score, ScorePoint

#: Gradient steps of the attack that tests a model in the course of its training.
TEST_STEPS = 10

#: Images scored together: many small ones, or as many larger ones as have no more pixels.
_MOST, _PIXELS = 250, 250 * 96 * 96

#: Called after each batch with how many images it had; may raise to stop.
OnBatch = Callable[[int], None]


@torch.no_grad()
def natural_score(net: nn.Module, data: TrainingData, on_batch: OnBatch = lambda images: None) -> Score:
    """The network's score on all test images as they are; it must be in evaluation mode."""
    sums = []
    for images in data.testing(torch.split(torch.arange(data.test_count), _together(data))):
        sums.append(_sums(net, images.x_BCHW, images.y_B))
        on_batch(len(images.y_B))
    return _mean(sums)


def adversarial_score(
    net: nn.Module,
    fast: Model,
    data: TrainingData,
    settings: TrainSettings,
    *,
    steps: int,
    on_batch: OnBatch = lambda images: None,
) -> Score:
    """The score under the regime's own attack: PGD of `steps` at the full epsilon, on `score_images` test images.

    The images are evenly spaced over the test set. Perturbations are searched for on `fast`, checked against the
    contract and scored on `net`. Raises ContractError.
    """
    count = min(settings.score_images, data.test_count)
    chosen_N = torch.arange(count) * data.test_count // count
    attack = AttackSettings(steps=steps, schedule="constant")
    sums = []
    for batch in data.testing(torch.split(chosen_N, _together(data))):
        seeds_B = item_seeds(derive_seed(settings.seed, "score"), batch.samples_B)
        mask_B1HW = masks(batch, settings.mask_from, settings.center)
        eps_B1HW = regime_epsilon(settings.regime, mask_B1HW, settings.epsilon, seeds_B)
        adv_BCHW = run_attack(pgd, fast, batch.x_BCHW, batch.y_B, eps_B1HW, attack, seeds_B)
        with torch.no_grad():
            sums.append(_sums(net, adv_BCHW, batch.y_B))
        on_batch(len(batch.y_B))
    return _mean(sums)


def score_point(trainer: Trainer, on_batch: OnBatch = lambda images: None) -> ScorePoint:
    """The scores of the weights that count after the steps done; training is left as it is."""
    net = copy.deepcopy(trainer.net)
    net.load_state_dict(trainer.weights())
    net.eval()
    settings, data = trainer.settings, trainer.data
    natural = natural_score(net, data, on_batch)
    if not settings.is_adversarial:
        return ScorePoint(trainer.done, natural.loss, natural.accuracy)
    fast = gradient_model(net, data.image_shape, form=trainer.form)
    attacked = adversarial_score(net, fast, data, settings, steps=TEST_STEPS, on_batch=on_batch)
    return ScorePoint(trainer.done, natural.loss, natural.accuracy, attacked.loss, attacked.accuracy)


def _together(data: TrainingData) -> int:
    _, H, W = data.image_shape
    return max(1, min(_MOST, _PIXELS // (H * W)))


def _sums(net: nn.Module, x_BCHW: torch.Tensor, y_B: torch.Tensor) -> tuple[int, float, float]:
    """How many images there are, the sum of their losses, and how many are right."""
    found = judge(net, x_BCHW, y_B, "the network")
    return len(y_B), float(found.loss_B.sum()), float(found.right_B.sum())


def _mean(sums: list[tuple[int, float, float]]) -> Score:
    n = sum(count for count, _, _ in sums)
    return Score(n, sum(loss for _, loss, _ in sums) / n, sum(right for _, _, right in sums) / n)
