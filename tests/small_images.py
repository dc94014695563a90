"""Small images with a protected middle, and a small network that is no linear one."""

from __future__ import annotations

import torch
from torch import nn

from latcli.engine.attacks.settings import Model
from latcli.engine.localize import center_mask, epsilon_matrix

SIDE, CLASSES = 8, 12


def small_images(batch: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def background(batch: int, epsilon: float = 8 / 255) -> torch.Tensor:
    return epsilon_matrix(center_mask((SIDE, SIDE), 0.5)[None].expand(batch, 1, SIDE, SIDE), epsilon)


def convnet(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(16, 16, 3, padding=1, stride=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(16 * (SIDE // 2) ** 2, CLASSES),
    ).eval()


def seeds(batch: int) -> torch.Tensor:
    return torch.arange(batch) * 1000 + 7


class Watched:
    """A model that remembers every image that it was shown."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.seen: list[torch.Tensor] = []

    def __call__(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        self.seen.append(x_BCHW.detach().clone())
        return self.model(x_BCHW)
