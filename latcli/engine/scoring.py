"""What a network makes of labelled images: one by one, and as loss and accuracy on a data set, natural and attacked.

Logits are in fp32, all else in float64.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latcli.engine.attacks.contract import run_attack
from latcli.engine.attacks.objectives import is_right
from latcli.engine.attacks.pgd import pgd
from latcli.engine.attacks.settings import AttackSettings, Model
from latcli.engine.datasets.base import Images, TrainingData
from latcli.engine.models.classifier import finite_logits
from latcli.engine.noise import derive_seed, item_seeds
from latcli.engine.precision import gradient_model
from latcli.engine.training.loop import Trainer
from latcli.engine.training.regimes import masks, regime_epsilon
from latcli.engine.training.settings import TrainSettings
from latcli.errors import LatcliError
from latcli.results import Score, ScorePoint

#: Gradient steps of the attack that tests a model in the course of its training.
TEST_STEPS = 10

#: Images scored together: many small ones, or as many larger ones as have no more pixels.
_MOST, _PIXELS = 250, 250 * 96 * 96

#: Called after each batch with how many images it had; may raise to stop.
OnBatch = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """loss_B, float64: the label's cross entropy; right_B, bool: the label is the top guess, a tie is not.

    Both on the CPU.
    """

    loss_B: Tensor
    right_B: Tensor


def judge(score: Model, x_BCHW: Tensor, y_B: Tensor, name: str = "the model") -> Outcomes:
    """Score images in [0, 1] against their labels: logits in fp32, all else in float64 on the CPU.

    Raises LatcliError, in which the model is called `name`, for labels that it does not have, and for NaN or infinite
    logits.
    """
    logits_BK, labels_B = finite_logits(score, x_BCHW, name), y_B.cpu()
    K = logits_BK.shape[1]
    if len(labels_B) and not 0 <= int(labels_B.min()) <= int(labels_B.max()) < K:
        raise LatcliError(
            f"the labels {int(labels_B.min())} to {int(labels_B.max())} do not fit the {K} classes of {name}",
            "evaluate a model on the data set that it was trained for",
        )
    loss_B = -logits_BK.log_softmax(dim=1).gather(1, labels_B[:, None])[:, 0]
    return Outcomes(loss_B, is_right(logits_BK, labels_B))


def natural_score(net: nn.Module, data: TrainingData, on_batch: OnBatch = lambda images: None) -> Score:
    """The network's score on all test images as they are; it must be in evaluation mode."""
    return _score(net, data, torch.arange(data.test_count), lambda images: images.x_BCHW, on_batch)


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

    def attacked(images: Images) -> Tensor:
        seeds_B = item_seeds(derive_seed(settings.seed, "score"), images.samples_B)
        mask_B1HW = masks(images, settings.mask_from, settings.center)
        eps_B1HW = regime_epsilon(settings.regime, mask_B1HW, settings.epsilon, seeds_B)
        return run_attack(pgd, fast, images.x_BCHW, images.y_B, eps_B1HW, attack, seeds_B)

    return _score(net, data, chosen_N, attacked, on_batch)


def _score(
    net: nn.Module, data: TrainingData, chosen_N: Tensor, shown: Callable[[Images], Tensor], on_batch: OnBatch
) -> Score:
    """The mean loss and accuracy on these test images, of each batch of which the network gets what `shown` gives."""
    _, H, W = data.image_shape
    n, loss, right = 0, 0.0, 0.0
    for images in data.testing(torch.split(chosen_N, max(1, min(_MOST, _PIXELS // (H * W))))):
        found = judge(net, shown(images), images.y_B, "the network")
        n, loss, right = n + len(images.y_B), loss + float(found.loss_B.sum()), right + float(found.right_B.sum())
        on_batch(len(images.y_B))
    return Score(n, loss / n, right / n)


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
