"""Networks for small images, as constructors by name: the paper's CNN and ResNets.

A constructor takes the images' (C, H, W) and the number of classes, and returns a module that maps x_BCHW in [0, 1] to
logits_BK. Legend: B images, C channels, H, W pixels, K classes, F feature channels.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn
from torch.nn import functional

from latcli.engine.models.preprocessing import Normalize
from latcli.errors import UsageError


class Architecture(Protocol):
    """A constructor of networks: what a plug-in of the group `latcli.architectures` names."""

    def __call__(self, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        """A network with fresh weights from torch's global generator."""
        ...


class PaperCNN(nn.Module):
    """Two 5x5 convolutions of 32 and 64 filters with 2x2 max pools, 1,024 units, logits.

    Source: the paper's section 5 (two convolutions, one fully connected layer); sizes of the MNIST network of Madry et
    al., ICLR'18.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        C, H, W = image_shape
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


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm beside a shortcut (He et al., CVPR'16)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, features_BFHW: torch.Tensor) -> torch.Tensor:
        """The block's features, at 1 / stride of the resolution."""
        inner_BFHW = self.norm1(self.conv1(features_BFHW)).relu_()
        sum_BFHW: torch.Tensor = self.norm2(self.conv2(inner_BFHW)) + self.shortcut(features_BFHW)
        return sum_BFHW.relu_()


class SmallResNet18(nn.Module):
    """ResNet-18 as it is used for 32x32 images: a 3x3 stem of stride 1, no first pool.

    The channels of colour images are normalized by CIFAR-10's means and deviations, inside.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        C = image_shape[0]
        mean, std = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)) if C == 3 else ((0.5,) * C, (0.25,) * C)
        self.normalize = Normalize(mean, std)
        self.stem = nn.Conv2d(C, 64, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(64)
        widths = (64, 64, 128, 256, 512)
        self.blocks = nn.Sequential(
            *(
                block
                for stage in range(4)
                for block in (
                    ResidualBlock(widths[stage], widths[stage + 1], 1 if stage == 0 else 2),
                    ResidualBlock(widths[stage + 1], widths[stage + 1], 1),
                )
            )
        )
        self.logits = nn.Linear(512, classes)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """logits_BK of images in [0, 1]."""
        features_BFHW = self.blocks(self.norm(self.stem(self.normalize(x_BCHW))).relu_())
        logits_BK: torch.Tensor = self.logits(features_BFHW.mean(dim=(2, 3)))
        return logits_BK


class PlainShortcut(nn.Module):
    """Option A of He et al.: every second pixel, and zeros for the channels that are new; no weights."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.added = (outputs - inputs) // 2

    def forward(self, features_BFHW: torch.Tensor) -> torch.Tensor:
        """The features at half the resolution, in the middle of the new channels."""
        return functional.pad(features_BFHW[:, :, ::2, ::2], (0, 0, 0, 0, self.added, self.added))


class CifarBlock(nn.Module):
    """Two 3x3 convolutions with batch norm beside a shortcut without weights."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if stride == 1 else PlainShortcut(inputs, outputs)

    def forward(self, features_BFHW: torch.Tensor) -> torch.Tensor:
        """The block's features."""
        inner_BFHW = self.bn1(self.conv1(features_BFHW)).relu_()
        sum_BFHW: torch.Tensor = self.bn2(self.conv2(inner_BFHW)) + self.shortcut(features_BFHW)
        return sum_BFHW.relu_()


class CifarResNet(nn.Module):
    """The ResNet of 6 n + 2 layers for CIFAR-10 (He et al., CVPR'16, section 4.2): 16, 32 and 64 filters.

    Colours are normalised by ImageNet's means and deviations, inside, as in the published weights whose names it has.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int, blocks: int) -> None:
        super().__init__()
        C = image_shape[0]
        mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if C == 3 else ((0.5,) * C, (0.25,) * C)
        self.normalize = Normalize(mean, std)
        self.conv1 = nn.Conv2d(C, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks)
        self.layer2 = _stage(16, 32, blocks)
        self.layer3 = _stage(32, 64, blocks)
        self.linear = nn.Linear(64, classes)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """logits_BK of images in [0, 1]."""
        features_BFHW = self.bn1(self.conv1(self.normalize(x_BCHW))).relu_()
        features_BFHW = self.layer3(self.layer2(self.layer1(features_BFHW)))
        logits_BK: torch.Tensor = self.linear(features_BFHW.mean(dim=(2, 3)))
        return logits_BK


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(CifarBlock(inputs, outputs), *(CifarBlock(outputs, outputs) for _ in range(blocks - 1)))


def paper_cnn(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The paper's CNN. Raises UsageError for images of fewer than 4 pixels a side."""
    if min(image_shape[1:]) < 4:
        raise UsageError("paper-cnn needs images of at least 4 pixels a side", "try --architecture resnet18")
    return PaperCNN(image_shape, classes)


def resnet18(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A ResNet-18 for small images."""
    return SmallResNet18(image_shape, classes)


def resnet20(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The CIFAR ResNet of 20 layers."""
    return CifarResNet(image_shape, classes, 3)


def resnet56(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The CIFAR ResNet of 56 layers."""
    return CifarResNet(image_shape, classes, 9)
