"""A classifier that takes images in [0, 1]; knows its network, names and preprocessing, never an attack.

Legend: B images, C = 3 channels, h = w the network's input size, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from latcli.engine.models.preprocessing import Preprocessing
from latcli.errors import LatcliError
from latcli.results import Guess, Prediction


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
        first = log_p_K.topk(min(shown, len(log_p_K)))
        guesses = zip(first.indices.tolist(), first.values.exp().tolist(), strict=True)
        top = tuple(Guess(index, classifier.class_names[index], p) for index, p in guesses)
        label = top[0].index if label is None else label
        predictions.append(
            Prediction(
                prediction=top[0].name,
                index=top[0].index,
                p_prediction=top[0].p,
                confidence=float(log_p_K[label].exp()),
                rank=int((log_p_K >= log_p_K[label]).sum()),
                loss=float(-log_p_K[label]),
                top=top,
            )
        )
    return predictions
