"""A small convolutional network on real digits, robust to some attacks and not to others: trained in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from latcli.engine.attacks.objectives import cross_entropy_odds
from latcli.engine.datasets.base import DatasetSource
from latcli.engine.datasets.catalog import mnist_5k
from latcli.engine.training.inner_attacks import climb, plan_for

SIDE = 28
EPSILON = 0.1


@dataclass(frozen=True)
class SmallDigits:
    """A trained network and 1,000 digits that it was not trained on, in an order that mixes the classes."""

    net: nn.Module
    x_BCHW: torch.Tensor
    y_B: torch.Tensor

    def first(self, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """x_BCHW, y_B, a constant epsilon matrix and seeds of the first `count` digits."""
        eps_B1HW = torch.full((count, 1, SIDE, SIDE), EPSILON)
        return self.x_BCHW[:count], self.y_B[:count], eps_B1HW, torch.arange(count)


def train_small_digits() -> SmallDigits:
    """Two convolutions and a linear layer, two passes over 4,000 digits of adversarial training (FGSM-RS)."""
    digits = mnist_5k(DatasetSource(Path()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 5, 2, 2),
            nn.ReLU(),
            nn.Conv2d(8, 16, 5, 2, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * (SIDE // 4) ** 2, 10),
        )
        x_BCHW, y_B = digits.x_train.float() / 255, digits.y_train
        optimizer = torch.optim.Adam(net.parameters(), 4e-3)
        plan, eps_B1HW = plan_for("fgsm-rs", 1, None), torch.full((100, 1, SIDE, SIDE), EPSILON)
        for part in torch.stack([torch.randperm(len(y_B)) for _ in range(2)]).flatten().split(100):
            adv_BCHW = climb(net, x_BCHW[part], y_B[part], eps_B1HW, plan, cross_entropy_odds, part)
            optimizer.zero_grad()
            functional.cross_entropy(net(adv_BCHW), y_B[part]).backward()
            optimizer.step()
    order_B = torch.arange(digits.test_count).view(10, -1).T.flatten()  # of each class one, and so on
    return SmallDigits(net.eval().requires_grad_(False), digits.x_test[order_B].float() / 255, digits.y_test[order_B])
