"""Steepest ascent inside an epsilon matrix: projected gradient descent, its one-step form, and that with momentum.

Sources: Algorithm 1 of the paper; Madry et al., ICLR'18 (PGD); Goodfellow et al., ICLR'15 (FGSM); Dong et al., CVPR'18,
"Boosting Adversarial Attacks with Momentum" (MI-FGSM). Legend: B images, C channels, H, W pixels; a small b is the part
of the batch that is still under attack.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from latcli.engine.attacks.objectives import (
    ObjectiveFunction,
    WorstCase,
    cross_entropy_odds,
    objective_for,
    odds_slope,
    reached,
)
from latcli.engine.attacks.settings import AttackSettings, Model, Recordable, can_train, narrowed
from latcli.engine.attacks.threat import Threat, part_of, threat_for
from latcli.engine.cuda_graph import replayed
from latcli.engine.devices import rounded_factors
from latcli.engine.noise import derive_seed
from latcli.errors import LatcliError


def pgd(
    model: Model, x_BCHW: Tensor, y_B: Tensor, eps_B1HW: Tensor, settings: AttackSettings, seeds_B: Tensor
) -> Tensor:
    """Adversarial images by steepest ascent with projection; of several restarts each image keeps its worst.

    See `Attack` for shapes. The last iterate is the result, as in the paper; with a stop rank an image rests at the
    first iterate that meets it, and takes no part in further restarts.
    """
    adv_BCHW = _restart(model, x_BCHW, y_B, eps_B1HW, settings, restart_seeds(seeds_B, 0))
    if settings.restarts == 1 or not settings.random_start:  # without chance all restarts are the same
        return adv_BCHW
    worst, done = WorstCase(x_BCHW, y_B, settings, objective_for(settings)), 1
    _offer(model, worst, worst.open(), adv_BCHW)
    while done < settings.restarts and len(open_b := worst.open()):
        # The room that solved images have left in the batch is filled with further restarts of the others.
        stacked = range(done, min(settings.restarts, done + len(y_B) // len(open_b)))
        place_n = open_b.repeat(len(stacked))
        seeds_n = torch.cat([restart_seeds(seeds_B[open_b], restart) for restart in stacked])
        part = (narrowed(model, place_n), x_BCHW[place_n], y_B[place_n], eps_B1HW[place_n])
        for again_bCHW in torch.split(_restart(*part, settings, seeds_n), len(open_b)):
            _offer(narrowed(model, open_b), worst, open_b, again_bCHW)
        done = stacked.stop
    return worst.adv_BCHW


@torch.no_grad()
def _offer(model: Model, worst: WorstCase, open_b: Tensor, adv_bCHW: Tensor) -> None:
    """Consider candidates for the images at `open_b`, save those that a restart of the same batch has solved."""
    logits_bK = model(adv_bCHW)
    left_b = torch.isin(open_b, worst.open())
    worst.offer(open_b[left_b], adv_bCHW[left_b], logits_bK[left_b])


def _restart(
    model: Model, x_BCHW: Tensor, y_B: Tensor, eps_B1HW: Tensor, settings: AttackSettings, seeds_B: Tensor
) -> Tensor:
    threat = threat_for(x_BCHW, eps_B1HW, settings)
    start_BCHW = threat.random_start(seeds_B) if settings.random_start else x_BCHW.clone()
    return climb(model, start_BCHW, y_B, threat, settings)


def climb(model: Model, adv_BCHW: Tensor, y_B: Tensor, threat: Threat, settings: AttackSettings) -> Tensor:
    """The iterate that the steps lead to from adv_BCHW; with a stop rank each image's first one that meets it.

    Restarts are not looked at.
    """
    if settings.stop_rank:
        return _climb_until(model, adv_BCHW, y_B, threat, settings)
    objective = objective_for(settings)
    if not (adv_BCHW.is_cuda and isinstance(model, Recordable)):
        for index in range(settings.steps):
            gradient_BCHW, _ = input_gradient(model, adv_BCHW, y_B, objective)
            adv_BCHW = threat.move(adv_BCHW, gradient_BCHW, settings.step_at(index))
        return adv_BCHW

    def step(adv_BCHW: Tensor, share: Tensor, y_B: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        moved = threat.over(*tensors)
        with rounded_factors(adv_BCHW.device):
            gradient_BCHW, _ = input_gradient(model, adv_BCHW, y_B, objective)
        return moved.move(adv_BCHW, gradient_BCHW, share), y_B, *moved.tensors()

    shares_S = torch.tensor([settings.step_at(index) for index in range(settings.steps)], device=adv_BCHW.device)
    known, about = (type(threat), objective, settings.radius), [y_B, *threat.tensors()]
    for share in shares_S:
        adv_BCHW, *about = replayed(model.recordings, known, step, (adv_BCHW, share, *about))
    return adv_BCHW.clone()  # the next replay overwrites the recording's own tensor


def _climb_until(model: Model, adv_BCHW: Tensor, y_B: Tensor, threat: Threat, settings: AttackSettings) -> Tensor:
    """The same climb; an image leaves the batch at the first iterate that meets the stop rank."""
    objective = objective_for(settings)
    result_BCHW = adv_BCHW.clone()
    open_b = torch.arange(len(y_B), device=y_B.device)
    adv_bCHW, y_b = adv_BCHW, y_B
    for index in range(settings.steps):
        gradient_bCHW, logits_bK = input_gradient(model, adv_bCHW, y_b, objective)
        done_b = reached(logits_bK, y_b, settings, settings.stop_rank)
        if done_b.any():
            kept_b = (~done_b).nonzero()[:, 0]
            result_BCHW[open_b[done_b]] = adv_bCHW[done_b]
            if not len(kept_b):
                return result_BCHW
            model, threat = narrowed(model, kept_b), part_of(threat, kept_b)
            open_b, adv_bCHW, y_b, gradient_bCHW = (t[kept_b] for t in (open_b, adv_bCHW, y_b, gradient_bCHW))
        adv_bCHW = threat.move(adv_bCHW, gradient_bCHW, settings.step_at(index))
    result_BCHW[open_b] = adv_bCHW
    return result_BCHW


def input_gradient(
    model: Model, x_BCHW: Tensor, y_B: Tensor, objective: ObjectiveFunction, *more: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradient of the objective with respect to the images alone, and the logits; weights get no gradient.

    The objective is given logits, labels, and `more` where there is more.

    Raises LatcliError for a model whose logits do not depend on the images by anything that has a gradient.
    """
    with torch.enable_grad():
        x_BCHW = x_BCHW.detach().requires_grad_()
        logits_BK = model(x_BCHW)
        if not logits_BK.requires_grad:
            raise _no_gradient()
        # On a GPU, differentiating the objective would take a third of a small network's kernels. On a CPU that costs
        # nothing, but autograd imports sympy, in .4 s, when it is given a slope.
        if x_BCHW.is_cuda and objective is cross_entropy_odds:
            climbed, slope = logits_BK, odds_slope(logits_BK.detach(), y_B)
        else:
            climbed, slope = objective(logits_BK, y_B, *more).sum(), None
        (gradient_BCHW,) = torch.autograd.grad(climbed, x_BCHW, slope, allow_unused=True)
    if gradient_BCHW is None:
        raise _no_gradient()
    return gradient_BCHW, logits_BK.detach()


def repeated_gradient(
    model: Model, x_BCHW: Tensor, y_B: Tensor, objective: ObjectiveFunction, *more: Tensor
) -> tuple[Tensor, Tensor]:
    """The same for one of many steps: replayed on a CUDA device, where the model keeps recordings.

    A recording is known by the objective itself, which may look at nothing but what it is given.
    """
    if not (x_BCHW.is_cuda and isinstance(model, Recordable)):
        return input_gradient(model, x_BCHW, y_B, objective, *more)

    def gradient(x_BCHW: Tensor, y_B: Tensor, *more: Tensor) -> tuple[Tensor, Tensor]:
        with rounded_factors(x_BCHW.device):
            return input_gradient(model, x_BCHW, y_B, objective, *more)

    gradient_BCHW, logits_BK = replayed(model.recordings, objective, gradient, (x_BCHW, y_B, *more))
    return gradient_BCHW, logits_BK


def _no_gradient() -> LatcliError:
    return LatcliError(
        "the model gives no gradient of its logits", "keep the autograd graph of its input, or use --attack square"
    )


def restart_seeds(seeds_B: Tensor, restart: int) -> Tensor:
    """Seeds of a restart: as far apart as hashes are, whatever the images' own seeds."""
    return seeds_B ^ derive_seed("restart", restart)


@can_train
def fgsm(
    model: Model, x_BCHW: Tensor, y_B: Tensor, eps_B1HW: Tensor, settings: AttackSettings, seeds_B: Tensor
) -> Tensor:
    """One step of the full epsilon from the image itself (Goodfellow et al., ICLR'15): PGD with one step of share 1.

    Steps, step size, schedule, restarts and random start of the settings are not looked at.
    """
    single = replace(settings, steps=1, step=1.0, schedule="constant", restarts=1, random_start=False, stop_rank=0)
    return pgd(model, x_BCHW, y_B, eps_B1HW, single, seeds_B)


#: How much of the gradients so far each step keeps (the paper's mu).
DECAY = 1.0


@can_train
def mi_fgsm(
    model: Model, x_BCHW: Tensor, y_B: Tensor, eps_B1HW: Tensor, settings: AttackSettings, seeds_B: Tensor
) -> Tensor:
    """Steps along the accumulated gradients, from the image itself. See `Attack` for shapes.

    Without a step size each of the `steps` steps is 1/steps of epsilon, as in the paper. Schedule, restarts and random
    start of the settings are not looked at.
    """
    threat = _WithMomentum(threat_for(x_BCHW, eps_B1HW, settings), eps_B1HW > 0, torch.zeros_like(x_BCHW))
    even = replace(settings, step=settings.step or 1.0 / settings.steps, schedule="constant")
    return climb(model, x_BCHW.clone(), y_B, threat, even)


class _WithMomentum:
    """A threat that is moved in along the sum of all gradients so far, each divided by its l1 norm."""

    def __init__(self, threat: Threat, free_B1HW: Tensor, momentum_BCHW: Tensor) -> None:
        self.threat, self.free_B1HW, self.momentum_BCHW = threat, free_B1HW, momentum_BCHW

    def random_start(self, seeds_B: Tensor) -> Tensor:
        return self.threat.random_start(seeds_B)

    def move(self, adv_BCHW: Tensor, gradient_BCHW: Tensor, share: float | Tensor) -> Tensor:
        # Only pixels that may change count; scaled by the largest first, so that no sum leaves float32.
        gradient_BCHW = (gradient_BCHW * self.free_B1HW).nan_to_num()
        gradient_BCHW = gradient_BCHW / gradient_BCHW.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-38)
        length_B111 = gradient_BCHW.abs().sum(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
        self.momentum_BCHW = DECAY * self.momentum_BCHW + gradient_BCHW / length_B111
        return self.threat.move(adv_BCHW, self.momentum_BCHW, share)

    def tensors(self) -> tuple[Tensor, ...]:
        return self.free_B1HW, self.momentum_BCHW, *self.threat.tensors()

    def over(self, *tensors: Tensor) -> _WithMomentum:
        free_B1HW, momentum_BCHW, *others = tensors
        return _WithMomentum(self.threat.over(*others), free_B1HW, momentum_BCHW)
