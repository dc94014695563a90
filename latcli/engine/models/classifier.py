"""A classifier that takes images in [0, 1]: its network, class names, preprocessing and identity.

Legend: B images, C = 3 channels, h, w the network's input size, K classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Self

import torch
from torch import nn

from latcli.engine.labels import known_class
from latcli.engine.models.preprocessing import Preprocessing
from latcli.engine.models.weights import state_dict_sha256
from latcli.errors import LatcliError, UsageError
from latcli.results import Guess, Prediction


class GreyInput(nn.Module):
    """Lets a network of one channel read photos: three channels become their mean, which of grey ones is each."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """logits_BK of images with one channel or three."""
        logits_BK: torch.Tensor = self.net(x_BCHW.mean(dim=1, keepdim=True) if x_BCHW.shape[1] == 3 else x_BCHW)
        return logits_BK


class Reordered(nn.Module):
    """The same K logits in another order: what was number order_K[k] becomes number k."""

    order_K: torch.Tensor

    def __init__(self, net: nn.Module, order_K: torch.Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("order_K", order_K, persistent=False)

    def forward(self, x_BChw: torch.Tensor) -> torch.Tensor:
        """logits_BK of images in [0, 1]."""
        return logits_in(self.net(x_BChw))[:, self.order_K]


class Classifier(nn.Module):
    """Images in [0, 1] to logits, in evaluation mode, also while it is trained.

    Norms keep their statistics, nothing is dropped and auxiliary heads stay silent: with the small batches of photos,
    statistics of a batch would be noise, and a sample would depend on which others are in its batch.

    `net` takes [0, 1] (put a `Normalize` in front). `class_ids` are the WordNet ids of ImageNet classes, where it has
    such. `weights_sha256` is that of the network's state dict, where it is known.
    """

    def __init__(
        self,
        name: str,
        net: nn.Module,
        preprocessing: Preprocessing,
        class_names: Sequence[str],
        class_ids: Sequence[str] = (),
        weights_sha256: str | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.net = net
        self.preprocessing = preprocessing
        self.class_names = tuple(class_names)
        self.class_ids = tuple(class_ids)
        self.weights_sha256 = weights_sha256 or state_dict_sha256(net.state_dict())
        self.eval()
        for parameter in self.parameters():
            if parameter.is_leaf:
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever is asked for."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters(), torch.empty(0)).device

    def forward(self, x_BChw: torch.Tensor) -> torch.Tensor:
        """logits_BK of images in [0, 1] at the network's input size."""
        return logits_in(self.net(x_BChw.clone()))  # a network may work in place, and the image is still needed

    @cached_property
    def fingerprint(self) -> str | None:
        """A sha256 of the weights and of its outputs on two fixed images; None where these are random.

        Of the logits it takes what noise of 1e-6 hardly ever changes: their length to three digits, the top guess, and
        a random projection to two. The images are given one by one, on one thread.
        """
        first, second, again = (_answer(self, seed) for seed in (0, 1, 0))
        known = f"{self.weights_sha256}{first}{second}"
        return hashlib.sha256(known.encode()).hexdigest() if again == first else None


def logits_in(output: object) -> torch.Tensor:
    """The logits in what a network returns: a tensor, or the first of a tuple, `logits` of an object or mapping.

    What is none of these is returned as it is.
    """
    if isinstance(output, Mapping):
        output = output.get("logits", next(iter(output.values()), None))
    elif not isinstance(output, torch.Tensor) and hasattr(output, "logits"):
        output = output.logits
    elif isinstance(output, tuple | list) and output:
        output = output[0]
    return output  # type: ignore[return-value]


@torch.no_grad()
def _answer(classifier: Classifier, seed: int) -> tuple[str, ...]:
    """What the classifier says of an image of 5x5 random colours, rounded."""
    generator = torch.Generator().manual_seed(seed)
    x_1C55 = torch.rand(1, 3, 5, 5, generator=generator)
    x_1Chw = nn.functional.interpolate(x_1C55, classifier.preprocessing.size).to(classifier.device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        logits_K = classifier(x_1Chw)[0].double().cpu()
    finally:
        torch.set_num_threads(threads)
    length = logits_K.norm()
    direction_K = torch.randn(len(logits_K), generator=generator, dtype=torch.float64)
    projected = float(logits_K @ direction_K / length)
    return f"{float(length):.2e}", f"{projected:.2f}", str(int(logits_K.argmax()))


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


def with_classes_first(classifier: Classifier, class_names: Sequence[str], where: str) -> Classifier:
    """The classifier with the classes of these names or WordNet ids first, in their order, then all its others.

    So the number of a folder's class is that of its logit, and the top guess is still one of all K. A classifier that
    knows none of the names but has as many classes is taken as it is. `where` has the classes, for errors. Raises
    UsageError for a class that the classifier does not have, and for two that are the same one.
    """
    found = [known_class(name, classifier) for name in class_names]
    as_many = not any(found) and len(classifier.class_names) == len(class_names)
    if as_many or classifier.class_names == tuple(class_names):
        return classifier
    first: dict[int, str] = {}
    for name, label in zip(class_names, found, strict=True):
        if label is None:
            raise UsageError(
                f"{classifier.name} has no class '{name}', which {where} has",
                "name the class folders after the classifier's classes or WordNet ids, or choose another model",
            )
        if label.index in first:
            raise UsageError(
                f"'{first[label.index]}' and '{name}' of {where} are one class of {classifier.name}: {label.name}",
                "put their photos into one folder",
            )
        first[label.index] = name
    order = [*first, *(index for index in range(len(classifier.class_names)) if index not in first)]
    names = [classifier.class_names[index] for index in order]
    ids = [classifier.class_ids[index] for index in order] if classifier.class_ids else ()
    net = Reordered(classifier.net, torch.tensor(order, device=classifier.device))
    return Classifier(classifier.name, net, classifier.preprocessing, names, ids)
