"""Networks for small images, as constructors by name: the paper's CNN and ResNets.

A constructor takes the images' (C, H, W) and the number of classes, and returns a module that maps x_BCHW in [0, 1] to
logits_BK. Legend: F feature channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from latcli.engine.models.preprocessing import Normalize
from latcli.errors import UsageError

#: Makes a network with fresh weights from torch's global generator, for images of (C, H, W) and so many classes: what a
#: plug-in of the group `latcli.architectures` names.
Architecture = Callable[[tuple[int, int, int], int], nn.Module]


class PaperCNN(nn.Module):
    """Two 5x5 convolutions of 32 and 64 filters with 2x2 max pools, 1,024 units, logits. At least 4 pixels a side.

    Source: the paper's section 5 (two convolutions, one fully connected layer); sizes of the MNIST network of Madry et
    al., ICLR'18.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        C, H, W = image_shape
        if min(H, W) < 4:
            raise UsageError("paper-cnn needs images of at least 4 pixels a side", "try --architecture resnet18")
        self.conv1 = nn.Conv2d(C, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.hidden = nn.Linear(64 * (H // 4) * (W // 4), 1024)
        self.logits = nn.Linear(1024, classes)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """logits_BK of images in [0, 1]."""
        # Pooling before the ReLU gives the same values on a quarter of the pixels.
        features_BFHW = functional.max_pool2d(self.conv1(x_BCHW), 2).relu_()
        features_BFHW = functional.max_pool2d(self.conv2(features_BFHW), 2).relu_()
        # Always in the order of channels, rows, columns: memory layouts must not change what a weight means.
        features_BD = features_BFHW.flatten(1)
        logits_BK: torch.Tensor = self.logits(self.hidden(features_BD).relu_())
        return logits_BK


class PlainShortcut(nn.Module):
    """Option A of He et al.: every second pixel, and zeros for the channels that are new; no weights."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.added = (outputs - inputs) // 2

    def forward(self, features_BFHW: torch.Tensor) -> torch.Tensor:
        """The features at half the resolution, in the middle of the new channels."""
        return functional.pad(features_BFHW[:, :, ::2, ::2], (0, 0, 0, 0, self.added, self.added))


def learnt_shortcut(inputs: int, outputs: int) -> nn.Module:
    """Option B: a 1x1 convolution of stride 2."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm beside a shortcut; half the resolution where there are new channels."""

    def __init__(self, inputs: int, outputs: int, shortcut: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1 if inputs == outputs else 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if inputs == outputs else shortcut(inputs, outputs)

    def forward(self, features_BFHW: torch.Tensor) -> torch.Tensor:
        """The block's features."""
        inner_BFHW = self.bn1(self.conv1(features_BFHW)).relu_()
        sum_BFHW: torch.Tensor = self.bn2(self.conv2(inner_BFHW)) + self.shortcut(features_BFHW)
        return sum_BFHW.relu_()


class SmallResNet(nn.Module):
    """A ResNet for 32x32 images: a 3x3 stem of stride 1, no first pool, `blocks` in each stage of `widths` filters.

    Colours are normalised by the means and deviations given, inside. Source: He et al., CVPR'16, section 4.2; names of
    the parameters as in the published weights for CIFAR-10.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        widths: Sequence[int],
        blocks: int,
        shortcut: Callable[[int, int], nn.Module],
        statistics: tuple[tuple[float, ...], tuple[float, ...]],
    ) -> None:
        super().__init__()
        C = image_shape[0]
        mean, std = statistics if C == 3 else ((0.5,) * C, (0.25,) * C)
        self.normalize = Normalize(mean, std)
        self.conv1 = nn.Conv2d(C, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages = len(widths)
        for number, (inputs, outputs) in enumerate(pairwise((widths[0], *widths)), start=1):
            rest = (ResidualBlock(outputs, outputs, shortcut) for _ in range(blocks - 1))
            self.add_module(f"layer{number}", nn.Sequential(ResidualBlock(inputs, outputs, shortcut), *rest))
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """logits_BK of images in [0, 1]."""
        features_BFHW = self.bn1(self.conv1(self.normalize(x_BCHW))).relu_()
        for number in range(1, self.stages + 1):
            features_BFHW = self.get_submodule(f"layer{number}")(features_BFHW)
        logits_BK: torch.Tensor = self.linear(features_BFHW.mean(dim=(2, 3)))
        return logits_BK


_CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


#: A ResNet-18 for small images.
resnet18 = partial(SmallResNet, widths=(64, 128, 256, 512), blocks=2, shortcut=learnt_shortcut, statistics=_CIFAR10)
#: The CIFAR ResNets of 20 and 56 layers, normalised as the published weights expect it.
resnet20 = partial(SmallResNet, widths=(16, 32, 64), blocks=3, shortcut=PlainShortcut, statistics=_IMAGENET)
resnet56 = partial(SmallResNet, widths=(16, 32, 64), blocks=9, shortcut=PlainShortcut, statistics=_IMAGENET)
