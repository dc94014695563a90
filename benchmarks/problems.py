"""The networks and images that benchmarks run on, without any download; must not know what is timed.

Labels are each network's own guesses. Where no weights are to be had without a network, they are fresh: the time is
that of trained ones. Legend: B images, C channels, H, W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from benchmarks.photos import given_photos
from latcli.engine.datasets.base import DatasetSource
from latcli.engine.datasets.catalog import open_dataset
from latcli.engine.images import read_photo
from latcli.engine.models.catalog import open_classifier
from latcli.engine.models.classifier import ClassifierSource
from latcli.engine.models.small import PaperCNN, resnet18
from latcli.engine.precision import GradientForm, gradient_model


@dataclass(frozen=True)
class Problem:
    """A network in evaluation mode, images in [0, 1], and epsilon."""

    name: str
    net: nn.Module
    x_BCHW: torch.Tensor
    epsilon: float

    def on(self, device: torch.device) -> Problem:
        """The same on a device."""
        return replace(self, net=self.net.to(device), x_BCHW=self.x_BCHW.to(device))

    def labels(self) -> torch.Tensor:
        """y_B: what the network sees in the images as they are."""
        with torch.no_grad():
            return self.net(self.x_BCHW).argmax(dim=1)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.x_BCHW.shape[1:]
        return channels, height, width

    def gradient_form(self) -> GradientForm:
        """The network in the form that latcli chooses."""
        return gradient_model(self.net, self.image_shape)


def digits(batch: int = 256) -> Problem:
    """The paper's CNN, trained for seconds on the embedded digits."""
    data = open_dataset("mnist-5k", DatasetSource(Path("data"), offline=True))
    torch.manual_seed(0)
    net = PaperCNN(data.image_shape, 10)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for chosen_B in torch.randint(0, data.train_count, (150, 128)):
        loss = functional.cross_entropy(net(data.x_train[chosen_B].float() / 255), data.y_train[chosen_B])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Problem(f"paper's CNN, 28 px, batch {batch}", net.eval(), data.x_test[:batch].float() / 255, 0.1)


def fresh_cnn(batch: int) -> Problem:
    """The paper's CNN with fresh weights, on noise: no training has raised this process's peak memory."""
    torch.manual_seed(0)
    net = PaperCNN((1, 28, 28), 10).eval()
    return Problem(f"paper's CNN, 28 px, batch {batch}", net, torch.rand(batch, 1, 28, 28), 0.1)


def small_resnet(batch: int = 128) -> Problem:
    """A CIFAR ResNet-18 with fresh weights, on noise."""
    torch.manual_seed(0)
    net = resnet18((3, 32, 32), 10).eval()
    return Problem(f"ResNet-18, 32 px, batch {batch}", net, torch.rand(batch, 3, 32, 32), 8 / 255)


def photo_batch(folder: Path | None, size: int, batch: int) -> torch.Tensor:
    """x_BCHW: photos of the folder, or those that installed packages carry, repeated to a batch."""
    files = given_photos(folder)[:batch]
    images = [read_photo(path).image.convert("RGB").resize((size, size)) for path in files]
    tensors = [torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(size, size, 3) for image in images]
    x_BHWC = torch.stack([tensors[index % len(tensors)] for index in range(batch)]).float() / 255
    return x_BHWC.permute(0, 3, 1, 2).contiguous()


def lite0(folder: Path | None = None, batch: int = 8) -> Problem:
    """EfficientNet-Lite0 with its ImageNet weights."""
    net = open_classifier("efficientnet_lite0", ClassifierSource(offline=True), torch.device("cpu"))
    return Problem(f"EfficientNet-Lite0, 224 px, batch {batch}", net, photo_batch(folder, 224, batch), 8 / 255)


def imagenet(name: str, title: str, size: int, folder: Path | None = None, batch: int = 8) -> Problem:
    """A network of torchvision with fresh weights."""
    from latcli.engine.vision import import_torchvision

    torch.manual_seed(0)
    options = {"init_weights": False} if name == "inception_v3" else {}
    net = getattr(import_torchvision().models, name)(weights=None, **options).eval()
    return Problem(f"{title}, {size} px, batch {batch}", net, photo_batch(folder, size, batch), 8 / 255)


def problems(folder: Path | None, batch: int = 8) -> dict[str, Callable[[], Problem]]:
    """All of them by name, none built yet; photos, so many in a batch, are those of the folder where one is given."""
    return {
        "cnn": digits,
        "resnet18": small_resnet,
        "efficientnet_lite0": lambda: lite0(folder, batch),
        "resnet50": lambda: imagenet("resnet50", "ResNet-50", 224, folder, batch),
        "inception_v3": lambda: imagenet("inception_v3", "Inception v3", 299, folder, batch),
    }


def is_installed(package: str) -> bool:
    """Whether a peer can be imported, without importing it."""
    return find_spec(package) is not None
