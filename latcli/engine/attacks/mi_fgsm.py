"""The momentum iterative fast gradient sign method, whose examples transfer better to other models.

Source: Dong et al., CVPR'18, "Boosting Adversarial Attacks with Momentum", Algorithm 1. Legend: B images, C channels,
H, W pixels.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from latcli.engine.attacks.pgd import climb
from latcli.engine.attacks.settings import AttackSettings, Model, can_train
from latcli.engine.attacks.threat import Threat, threat_for

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

    def move(self, adv_BCHW: Tensor, gradient_BCHW: Tensor, share: float) -> Tensor:
        # Only pixels that may change count; scaled by the largest first, so that no sum leaves float32.
        gradient_BCHW = (gradient_BCHW * self.free_B1HW).nan_to_num()
        gradient_BCHW = gradient_BCHW / gradient_BCHW.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-38)
        length_B111 = gradient_BCHW.abs().sum(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
        self.momentum_BCHW = DECAY * self.momentum_BCHW + gradient_BCHW / length_B111
        return self.threat.move(adv_BCHW, self.momentum_BCHW, share)

    def narrowed(self, kept_b: Tensor) -> _WithMomentum:
        return _WithMomentum(self.threat.narrowed(kept_b), self.free_B1HW[kept_b], self.momentum_BCHW[kept_b])
