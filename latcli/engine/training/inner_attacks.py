"""Attacks inside training, and the losses that they climb and that training minimizes; they see an epsilon matrix only.

Nothing here touches weights. `free` is not here: it attacks with the gradients of the update itself (loop.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from latcli.engine import registry
from latcli.engine.attacks.objectives import ObjectiveFunction
from latcli.engine.attacks.pgd import input_gradient
from latcli.engine.attacks.settings import Attack, AttackSettings, Model
from latcli.engine.attacks.threat import LinfBox
from latcli.engine.noise import uniform_noise
from latcli.errors import UsageError

#: Attacks made for training. Beside them: any registered attack whose `can_train` is true.
INNER_ATTACKS = ("pgd", "fgsm-rs", "n-fgsm", "free")


@dataclass(frozen=True)
class Plan:
    """A climb: a random start of `start` x the allowance, then a step of each share of it, projected every time.

    The allowance is `allowance` x the epsilon matrix; the shares are of the allowance.
    """

    allowance: float
    start: float
    shares: tuple[float, ...]


def plan_for(name: str, steps: int, step_share: float | None) -> Plan:
    """The plan of an inner attack; `step_share` is a share of epsilon, None for the attack's own.

    pgd (Madry et al., ICLR'18): steps of 2.5 / steps. fgsm-rs (Wong et al., ICLR'20): one step of 1.25 from a random
    start. n-fgsm (de Jorge et al., NeurIPS'22): one step of 1 from noise of twice epsilon, not projected back, so its
    images stay within three times epsilon, the noise already inside [0, 1]; protected pixels stay what they are.

    Raises UsageError for a name that has no plan.
    """
    if name == "pgd":
        return Plan(1.0, 1.0, (step_share or min(1.0, 2.5 / steps),) * steps)
    if name == "fgsm-rs":
        return Plan(1.0, 1.0, (step_share or 1.25,))
    if name == "n-fgsm":
        share = step_share or 1.0
        return Plan(2.0 + share, 2.0 / (2.0 + share), (share / (2.0 + share),))
    raise registry.unknown_name("planned inner attack", name, ("pgd", "fgsm-rs", "n-fgsm"))


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

    `between` is called before every step, and may raise to stop. Only gradients of the images are computed. The result
    keeps |x' - x| <= allowance x E inside [0, 1]; checking that is left to the caller.
    """
    box = LinfBox(x_BCHW, eps_B1HW * plan.allowance)
    noise_BCHW = uniform_noise(seeds_B, x_BCHW.shape[1:]).mul_(2.0).sub_(1.0)  # type: ignore[arg-type]
    adv_BCHW = box.project_(torch.addcmul(x_BCHW, noise_BCHW, box.eps_B1HW, value=plan.start))
    for share in plan.shares:
        between()
        gradient_BCHW, _ = input_gradient(model, adv_BCHW, y_B, objective)
        adv_BCHW = box.move(adv_BCHW, gradient_BCHW, share)
    return adv_BCHW


def check_attack(name: str, loss: str) -> None:
    """Raise UsageError where training cannot use the attack of that name, or not with this loss."""
    if name not in INNER_ATTACKS:
        registered_attack(name)
    if loss == "trades" and (name == "free" or name not in INNER_ATTACKS):
        raise UsageError(
            f"the inner attack {name} maximises the cross entropy and cannot be used with TRADES",
            "choose --attack pgd, fgsm-rs or n-fgsm, or --loss ce",
        )


def registered_attack(name: str) -> Attack:
    """The attack of the registry that declares `can_train`. Raises UsageError for any other name."""
    attacks: dict[str, Attack] = {one: registry.load("attack", one) for one in registry.names("attack")}
    able = [one for one, attack in attacks.items() if getattr(attack, "can_train", False)]
    if name not in attacks:
        raise registry.unknown_name("inner attack", name, [*INNER_ATTACKS, *able])
    if name not in able:
        raise UsageError(
            f"the attack {name} does not declare that it can be used in training",
            f"known: {', '.join([*INNER_ATTACKS, *able])}",
        )
    return attacks[name]


def registered_settings(steps: int, step_share: float | None) -> AttackSettings:
    """What a registered attack is given in training."""
    return AttackSettings(steps=steps, step=step_share, schedule="constant")


# losses


def divergence(logits_BK: torch.Tensor, clean_logits_BK: torch.Tensor) -> torch.Tensor:
    """KL(clean || adversarial) of the predictions, shape (B,): what TRADES adds (Zhang et al., ICML'19)."""
    clean_BK = clean_logits_BK.log_softmax(dim=1)
    return (clean_BK.exp() * (clean_BK - logits_BK.log_softmax(dim=1))).sum(dim=1)


def divergence_from(clean_logits_BK: torch.Tensor) -> ObjectiveFunction:
    """The objective of TRADES' inner attack: away from the predictions on the clean images, whatever the labels."""
    return lambda logits_BK, _y_B: divergence(logits_BK.float(), clean_logits_BK)


def trades(
    clean_logits_BK: torch.Tensor,
    adversarial_logits_BK: torch.Tensor,
    y_B: torch.Tensor,
    beta: float,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Cross entropy on clean images plus beta x the divergence of adversarial ones; a scalar."""
    natural = functional.cross_entropy(clean_logits_BK, y_B, label_smoothing=label_smoothing)
    return natural + beta * divergence(adversarial_logits_BK, clean_logits_BK).mean()
