"""Attacks inside training, as plans of one short climb; they see an epsilon matrix, never a mask or a regime.

Nothing here touches weights. `free` is not here: it attacks with the gradients of the update itself (loop.py).

Legend: B images, C channels, H, W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from latcli.engine.attacks.objectives import ObjectiveFunction
from latcli.engine.attacks.pgd import input_gradient
from latcli.engine.attacks.settings import Model
from latcli.engine.attacks.threat import LinfBox
from latcli.engine.noise import uniform_noise
from latcli.engine.training.presets import InnerAttackName
from latcli.errors import UsageError


@dataclass(frozen=True)
class Plan:
    """A climb: a random start of `start` x the allowance, then a step of each share of it, projected every time.

    The allowance is `allowance` x the epsilon matrix; the shares are of the allowance.
    """

    allowance: float
    start: float
    shares: tuple[float, ...]


def plan_for(name: InnerAttackName, steps: int, step_share: float | None) -> Plan:
    """The plan of an inner attack; `step_share` is a share of epsilon, None for the attack's own.

    pgd (Madry et al., ICLR'18): steps of 2.5 / steps. fgsm-rs (Wong et al., ICLR'20): one step of 1.25 from a random
    start. n-fgsm (de Jorge et al., NeurIPS'22): one step of 1 from noise of twice epsilon, not projected back, so its
    images stay within three times epsilon, the noise already inside [0, 1]; protected pixels stay what they are.

    Raises UsageError for `free`, which has no plan.
    """
    if name == "pgd":
        return Plan(1.0, 1.0, (step_share or min(1.0, 2.5 / steps),) * steps)
    if name == "fgsm-rs":
        return Plan(1.0, 1.0, (step_share or 1.25,))
    if name == "n-fgsm":
        share = step_share or 1.0
        return Plan(2.0 + share, 2.0 / (2.0 + share), (share / (2.0 + share),))
    raise UsageError(f"the inner attack '{name}' has no plan", "known: pgd, fgsm-rs, n-fgsm")


def climb(
    model: Model,
    x_BCHW: torch.Tensor,
    y_B: torch.Tensor,
    eps_B1HW: torch.Tensor,
    plan: Plan,
    objective: ObjectiveFunction,
    seeds_B: torch.Tensor,
    between: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """Adversarial images of the plan: the last iterate, as in the paper's Algorithm 1.

    `between` is called before every step, and may raise to stop.
    Only gradients of the images are computed. Its promise, |x' - x| <= allowance x E inside [0, 1], is for the caller
    to check, as often as it likes.
    """
    box = LinfBox(x_BCHW, eps_B1HW * plan.allowance)
    noise_BCHW = uniform_noise(seeds_B, x_BCHW.shape[1:]).mul_(2.0).sub_(1.0)  # type: ignore[arg-type]
    adv_BCHW = box.project_(torch.addcmul(x_BCHW, noise_BCHW, box.eps_B1HW, value=plan.start))
    for share in plan.shares:
        between()
        gradient_BCHW, _ = input_gradient(model, adv_BCHW, y_B, objective)
        adv_BCHW = box.move(adv_BCHW, gradient_BCHW, share)
    return adv_BCHW
