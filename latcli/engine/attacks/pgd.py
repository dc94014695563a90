"""Projected gradient descent inside an epsilon matrix.

Source: Algorithm 1 of the paper; Madry et al., ICLR'18. Legend: B images, C channels, H, W pixels; a small b is the
part of the batch that is still under attack.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from latcli.engine.attacks.objectives import ObjectiveFunction, achieved, objective_for, reached
from latcli.engine.attacks.settings import AttackSettings, Model, narrowed
from latcli.engine.attacks.threat import Threat, threat_for
from latcli.engine.noise import derive_seed
from latcli.errors import LatcliError


def pgd(
    model: Model,
    x_BCHW: torch.Tensor,
    y_B: torch.Tensor,
    eps_B1HW: torch.Tensor,
    settings: AttackSettings,
    seeds_B: torch.Tensor,
) -> torch.Tensor:
    """Adversarial images by steepest ascent with projection; of several restarts each image keeps its worst.

    See `Attack` for shapes. The last iterate is the result, as in the paper; with a stop rank an image rests at the
    first iterate that meets it, and takes no part in further restarts.
    """
    if not settings.random_start and settings.restarts > 1:
        settings = replace(settings, restarts=1)  # without chance all restarts are the same
    adv_BCHW = _restart(model, x_BCHW, y_B, eps_B1HW, settings, restart_seeds(seeds_B, 0))
    done = 1
    while done < settings.restarts:
        open_b = _unfinished(model, adv_BCHW, y_B, settings)
        if not len(open_b):
            break
        # The room that solved images have left in the batch is filled with further restarts of the others.
        stacked = range(done, min(settings.restarts, done + len(y_B) // len(open_b)))
        place_n = open_b.repeat(len(stacked))
        seeds_n = torch.cat([restart_seeds(seeds_B[open_b], restart) for restart in stacked])
        part = (narrowed(model, place_n), x_BCHW[place_n], y_B[place_n], eps_B1HW[place_n])
        for again_bCHW in torch.split(_restart(*part, settings, seeds_n), len(open_b)):
            worse_b = _is_worse(narrowed(model, open_b), again_bCHW, adv_BCHW[open_b], y_B[open_b], settings)
            adv_BCHW[open_b[worse_b]] = again_bCHW[worse_b]
        done = stacked.stop
    return adv_BCHW


def _restart(
    model: Model,
    x_BCHW: torch.Tensor,
    y_B: torch.Tensor,
    eps_B1HW: torch.Tensor,
    settings: AttackSettings,
    seeds_B: torch.Tensor,
) -> torch.Tensor:
    threat = threat_for(x_BCHW, eps_B1HW, settings)
    start_BCHW = threat.random_start(seeds_B) if settings.random_start else x_BCHW.clone()
    return climb(model, start_BCHW, y_B, threat, settings)


def climb(
    model: Model, adv_BCHW: torch.Tensor, y_B: torch.Tensor, threat: Threat, settings: AttackSettings
) -> torch.Tensor:
    """The iterate that the steps lead to from adv_BCHW; with a stop rank each image's first one that meets it.

    Restarts are not looked at.
    """
    if settings.stop_rank:
        return _climb_until(model, adv_BCHW, y_B, threat, settings)
    objective = objective_for(settings)
    for index in range(settings.steps):
        gradient_BCHW, _ = input_gradient(model, adv_BCHW, y_B, objective)
        adv_BCHW = threat.move(adv_BCHW, gradient_BCHW, settings.step_at(index))
    return adv_BCHW


def _climb_until(
    model: Model, adv_BCHW: torch.Tensor, y_B: torch.Tensor, threat: Threat, settings: AttackSettings
) -> torch.Tensor:
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
            model, threat = narrowed(model, kept_b), threat.narrowed(kept_b)
            open_b, adv_bCHW, y_b, gradient_bCHW = (t[kept_b] for t in (open_b, adv_bCHW, y_b, gradient_bCHW))
        adv_bCHW = threat.move(adv_bCHW, gradient_bCHW, settings.step_at(index))
    result_BCHW[open_b] = adv_bCHW
    return result_BCHW


def input_gradient(
    model: Model, x_BCHW: torch.Tensor, y_B: torch.Tensor, objective: ObjectiveFunction
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient of the objective with respect to the images alone, and the logits; weights get no gradient.

    Raises LatcliError for a model whose logits do not depend on the images by anything that has a gradient.
    """
    with torch.enable_grad():
        x_BCHW = x_BCHW.detach().requires_grad_()
        logits_BK = model(x_BCHW)
        if not logits_BK.requires_grad:
            raise _no_gradient()
        (gradient_BCHW,) = torch.autograd.grad(objective(logits_BK, y_B).sum(), x_BCHW, allow_unused=True)
    if gradient_BCHW is None:
        raise _no_gradient()
    return gradient_BCHW, logits_BK.detach()


def _no_gradient() -> LatcliError:
    return LatcliError(
        "the model gives no gradient of its logits", "keep the autograd graph of its input, or use --attack square"
    )


def restart_seeds(seeds_B: torch.Tensor, restart: int) -> torch.Tensor:
    """Seeds of a restart: as far apart as hashes are, whatever the images' own seeds."""
    return seeds_B ^ derive_seed("restart", restart)


@torch.no_grad()
def _unfinished(model: Model, adv_BCHW: torch.Tensor, y_B: torch.Tensor, settings: AttackSettings) -> torch.Tensor:
    everyone_B = torch.arange(len(y_B), device=y_B.device)
    if not settings.stop_rank:
        return everyone_B
    return everyone_B[~reached(model(adv_BCHW), y_B, settings, settings.stop_rank)]


@torch.no_grad()
def _is_worse(
    model: Model, new_BCHW: torch.Tensor, old_BCHW: torch.Tensor, y_B: torch.Tensor, settings: AttackSettings
) -> torch.Tensor:
    """Bool (B,): `new` is a worse case than `old`: it achieves more, or as much and is further up the objective.

    Where `old` has met the stop rank, it stays: without restarts that share a batch, there would be no `new`.
    """
    objective = objective_for(settings)
    logits_new_BK, logits_old_BK = model(new_BCHW), model(old_BCHW)
    more_B = achieved(logits_new_BK, y_B, settings) - achieved(logits_old_BK, y_B, settings)
    higher_B = objective(logits_new_BK, y_B) > objective(logits_old_BK, y_B)
    worse_B = torch.where(more_B == 0, higher_B, more_B > 0)
    return worse_B & ~reached(logits_old_BK, y_B, settings, settings.stop_rank) if settings.stop_rank else worse_B
