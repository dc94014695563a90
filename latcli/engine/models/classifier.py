"""A classifier that takes images in [0, 1]; knows its network, names and preprocessing, never an attack.

Legend: B images, C = 3 channels, h = w the network's input size, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from latcli.engine.models.preprocessing import Preprocessing
from latcli.errors import LatcliError


class Normalize(nn.Module):
    """(x - mean) / std for each channel, inside the model, where nobody can forget it or do it twice."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Images in [0, 1] to what the network was trained on."""
        return (x_BCHW - self.mean) / self.std


class Classifier(nn.Module):
    """Images in [0, 1] to logits, in evaluation mode.

    `net` takes [0, 1] (put a `Normalize` in front). `class_ids` are the WordNet ids of ImageNet classes, where it has
    such. `fingerprint` is a hash of the weights.
    """

    def __init__(
        self,
        name: str,
        net: nn.Module,
        preprocessing: Preprocessing,
        class_names: Sequence[str],
        fingerprint: str,
        class_ids: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.name = name
        self.net = net
        self.preprocessing = preprocessing
        self.class_names = tuple(class_names)
        self.class_ids = tuple(class_ids)
        self.fingerprint = fingerprint
        self.eval()
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters(), torch.empty(0)).device

    def forward(self, x_BChw: torch.Tensor) -> torch.Tensor:
        """logits_BK of images in [0, 1] at the network's input size."""
        logits_BK: torch.Tensor = self.net(x_BChw.clone())  # a network may work in place, and the image is still needed
        return logits_BK


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one image, as far as one label is concerned.

    `top` are the first guesses as (class index, confidence), best first. `confidence` is the label's own softmax
    value, `rank` its place, 1 for the top guess; a tie counts against the label. `loss` is its cross entropy.
    """

    index: int
    name: str
    confidence: float
    rank: int
    loss: float
    top: tuple[tuple[int, float], ...]


@torch.no_grad()
def predict(
    classifier: Classifier, x_BChw: torch.Tensor, labels: Sequence[int | None], shown: int = 5
) -> list[Prediction]:
    """Score images against their labels in fp32: the only way in which latcli reports a prediction.

    An image whose label is None is scored against its own top guess.

    Raises LatcliError where the classifier returns NaN or infinite logits.
    """
    logits_BK = classifier(x_BChw).float()
    if not torch.isfinite(logits_BK).all():
        raise LatcliError(
            f"{classifier.name} returns NaN or infinite logits", "check its weights and the range of its input"
        )
    log_p_BK = logits_BK.double().log_softmax(dim=1).cpu()
    predictions = []
    for log_p_K, label in zip(log_p_BK, labels, strict=True):
        top = log_p_K.topk(min(shown, len(log_p_K)))
        index = int(top.indices[0])
        label = index if label is None else label
        ahead = int((log_p_K >= log_p_K[label]).sum())
        predictions.append(
            Prediction(
                index=index,
                name=classifier.class_names[index],
                confidence=float(log_p_K[label].exp()),
                rank=ahead,
                loss=float(-log_p_K[label]),
                top=tuple((int(k), float(v.exp())) for k, v in zip(top.indices, top.values, strict=True)),
            )
        )
    return predictions
