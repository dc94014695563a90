"""A running average of a network's weights, which often generalizes better than the last ones; knows no training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


class WeightAverage:
    """An exponential average of parameters and buffers (Polyak and Juditsky, 1992); counters are copied.

    Its memory grows from the last few steps to 1 / (1 - decay) steps, so that the first weights leave no trace.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """Take in the weights after step `step` (from 0)."""
        weight = 1.0 - min(self.decay, (1 + step) / (10 + step))
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                self.values[name].lerp_(value, weight)
            else:
                self.values[name].copy_(value)

    @torch.no_grad()
    def restore(self, values: Mapping[str, torch.Tensor]) -> None:
        """Take over the values of an earlier average of the same network."""
        for name, value in self.values.items():
            value.copy_(values[name])
