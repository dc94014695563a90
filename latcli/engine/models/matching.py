"""A classifier's logits in the order of a folder's classes, which are some of its own; must not know data or attacks.

Legend: B images, C = 3 channels, h = w the network's input size, K the classifier's classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from latcli.engine.labels import known_class
from latcli.engine.models.classifier import Classifier
from latcli.errors import UsageError


class Reordered(nn.Module):
    """The same K logits in another order: what was number order_K[k] becomes number k."""

    order_K: torch.Tensor

    def __init__(self, net: nn.Module, order_K: torch.Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("order_K", order_K, persistent=False)

    def forward(self, x_BChw: torch.Tensor) -> torch.Tensor:
        """logits_BK of images in [0, 1]."""
        logits_BK: torch.Tensor = self.net(x_BChw)
        return logits_BK[:, self.order_K]


def with_classes_first(classifier: Classifier, class_names: Sequence[str], where: str) -> Classifier:
    """The classifier with the classes of these names or WordNet ids first, in their order, then all its others.

    So the number of a folder's class is that of its logit, and the top guess is still one of all K. A classifier that
    knows none of the names but has as many classes is taken as it is. `where` has the classes, for errors. Raises
    UsageError for a class that the classifier does not have, and for two that are the same one.
    """
    found = [known_class(name, classifier) for name in class_names]
    if classifier.class_names == tuple(class_names):
        return classifier
    if not any(found) and len(classifier.class_names) == len(class_names):
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
    return Classifier(classifier.name, net, classifier.preprocessing, names, classifier.fingerprint, ids)
