"""Networks that are built here: for small images the paper's CNN and ResNets, as constructors by name; and
EfficientNet-Lite0.

A constructor takes the images' (C, H, W) and the number of classes, and returns a module that maps x_BCHW in [0, 1] to
logits_BK. Legend: F feature channels.
"""

from __future__ import annotations

import math
from collections import OrderedDict
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


# EfficientNet-Lite0


class SamePadded(nn.Conv2d):
    """A convolution padded as by TensorFlow: ceil(side / stride) places, and an odd pixel of padding at the end."""

    def forward(self, x_BFHW: torch.Tensor) -> torch.Tensor:
        """The features at these places."""
        padding: list[int] = []
        for side, kernel, stride in zip(x_BFHW.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            missing = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
            padding += [missing // 2, missing - missing // 2]
        return super().forward(functional.pad(x_BFHW, padding))


def _depthwise(features: int, kernel: int, stride: int) -> nn.Conv2d:
    if stride == 1:
        return nn.Conv2d(features, features, kernel, padding=kernel // 2, groups=features, bias=False)
    return SamePadded(features, features, kernel, stride, groups=features, bias=False)


def _norm(features: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(features, eps=1e-3)


class InvertedResidual(nn.Module):
    """A 1x1 convolution to six times the channels, a depthwise one, a 1x1 one back; a shortcut where shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_pw, self.bn1 = nn.Conv2d(inputs, 6 * inputs, 1, bias=False), _norm(6 * inputs)
        self.conv_dw, self.bn2 = _depthwise(6 * inputs, kernel, stride), _norm(6 * inputs)
        self.conv_pwl, self.bn3 = nn.Conv2d(6 * inputs, outputs, 1, bias=False), _norm(outputs)
        self.act = nn.ReLU6()  # not in place: autograd would keep a copy, made for it alone
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, features_BFHW: torch.Tensor) -> torch.Tensor:
        """The block's features."""
        inner_BFHW = self.act(self.bn1(self.conv_pw(features_BFHW)))
        inner_BFHW = self.act(self.bn2(self.conv_dw(inner_BFHW)))
        outer_BFHW: torch.Tensor = self.bn3(self.conv_pwl(inner_BFHW))
        return outer_BFHW + features_BFHW if self.has_shortcut else outer_BFHW


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 for normalised images of 224 px, with fresh weights.

    Source: Tan and Le, ICML'19, without squeeze-and-excitation and with ReLU6, as TensorFlow's `lite` directory has it;
    names and order of the parameters as in timm's `tf_efficientnet_lite0`. Built here because timm and torchvision, of
    which nothing else is needed, take half a second to import.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv_stem, self.bn1 = SamePadded(3, 32, 3, 2, bias=False), _norm(32)
        first = {"conv_dw": _depthwise(32, 3, 1), "bn1": _norm(32), "act": nn.ReLU6()}
        first |= {"conv_pw": nn.Conv2d(32, 16, 1, bias=False), "bn2": _norm(16)}
        stages, inputs = [nn.Sequential(nn.Sequential(OrderedDict(first)))], 16
        for blocks, kernel, stride, outputs in (
            (2, 3, 2, 24), (2, 5, 2, 40), (3, 3, 2, 80), (3, 5, 1, 112), (4, 5, 2, 192), (1, 3, 1, 320),
        ):  # fmt: skip
            rest = (InvertedResidual(outputs, outputs, kernel, 1) for _ in range(blocks - 1))
            stages.append(nn.Sequential(InvertedResidual(inputs, outputs, kernel, stride), *rest))
            inputs = outputs
        self.blocks = nn.Sequential(*stages)
        self.conv_head, self.bn2 = nn.Conv2d(inputs, 1280, 1, bias=False), _norm(1280)
        self.act = nn.ReLU6()
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """logits_BK of normalised images."""
        features_BFHW = self.act(self.bn1(self.conv_stem(x_BCHW)))
        features_BFHW = self.act(self.bn2(self.conv_head(self.blocks(features_BFHW))))
        logits_BK: torch.Tensor = self.classifier(features_BFHW.mean(dim=(2, 3)))
        return logits_BK
