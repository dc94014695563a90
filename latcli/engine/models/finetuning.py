"""A classifier's network with a head for other classes, ready to be trained on.

Legend: B images, C channels, h, w the network's input size, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from latcli.engine import registry
from latcli.engine.labels import known_class
from latcli.engine.models.classifier import AS_PUBLISHED, Classifier, ClassifierSource
from latcli.engine.models.custom import named_by_user, named_classifier
from latcli.engine.models.libraries import library_network
from latcli.engine.models.preprocessing import Preprocessing
from latcli.errors import UsageError, first_line


def is_classifier_name(architecture: str) -> bool:
    """Whether training an architecture of that name means fine-tuning: a registered classifier, a library's, code."""
    if architecture in registry.names("architecture"):
        return False
    return ":" in architecture or architecture in registry.names("classifier")


def check_architecture(architecture: str) -> None:
    """Raise UsageError for a name that is neither a small network's nor a classifier's."""
    known = [*registry.names("architecture"), *registry.names("classifier")]
    if architecture not in known and ":" not in architecture:
        families = (f"{family}:NAME" for family in registry.CLASSIFIER_FAMILIES)
        raise registry.unknown_name(
            "architecture", architecture, [*known, *families, "module:function", "file.py:function"]
        )


def require_named(architecture: str) -> None:
    """Raise UsageError where a stored model's network is code that the user has not named in this process."""
    if registry.names_code(architecture) and architecture not in named_by_user:
        raise UsageError(
            f"this model's network is the code {architecture}, which only the command line may name",
            f"name it, and the model as its weights: {architecture} --classifier-weights FILE",
        )


def preprocessing_of(architecture: str, described: ClassifierSource = AS_PUBLISHED) -> Preprocessing:
    """How photos are prepared for a classifier of that name, as the user describes it. Raises UsageError.

    A library's weights are not asked for; what is no library's is opened.
    """
    network = library_network(architecture)
    if network is None:
        return named_classifier(architecture, described).preprocessing
    return described.preprocessing(network.preprocessing)


def fine_tuned(classifier: Classifier, class_names: Sequence[str]) -> Classifier:
    """The classifier's own network with a new head, which takes the place of the old one in `classifier`, too.

    The row of a class that an old one shares its name or WordNet id with starts as that one's; the others start from
    torch's global generator. The classifier's own classes keep its rows and ids. Raises UsageError where there is no
    head to be found.
    """
    if tuple(class_names) == classifier.class_names:  # of which two may have one name
        return _with_head(classifier, class_names, range(len(class_names)), classifier.class_ids)
    known = [known_class(name, classifier) for name in class_names]
    return _with_head(classifier, class_names, [None if label is None else label.index for label in known])


def fine_tuned_without_weights(
    architecture: str,
    class_names: Sequence[str],
    preprocessing: Preprocessing | None = None,
    described: ClassifierSource = AS_PUBLISHED,
) -> Classifier:
    """The network that `fine_tuned` makes of that classifier, with weights that mean nothing yet; downloads nothing.

    `preprocessing` is that of a checkpoint; else the library's own, as the user describes it. A classifier that is no
    library's has but one way of being made, its own. Raises UsageError for a name that is no classifier's, and for code
    that the user has not named.
    """
    described = replace(described, weights=None, class_names=None, offline=True)
    network = library_network(architecture)
    if network is not None:
        classifier = network.untrained(described)
    else:
        require_named(architecture)
        size = preprocessing.size if preprocessing else described.input_size
        classifier = named_classifier(architecture, replace(described, input_size=size))
    classifier.preprocessing = preprocessing or classifier.preprocessing
    return _with_head(classifier, class_names, [None] * len(class_names))


def _with_head(
    classifier: Classifier, class_names: Sequence[str], rows: Sequence[int | None], class_ids: Sequence[str] = ()
) -> Classifier:
    """The network with a head of these classes; each is row `rows[k]` of the old head, or new."""
    net, old_classes = classifier.net, len(classifier.class_names)
    if not all(isinstance(value, torch.Tensor) for value in net.state_dict().values()):
        raise _untrainable(classifier.name, "its weights are not all tensors, as those of quantised layers")
    found = [path for path, module in net.named_modules() if _outputs(module) == old_classes]
    if found:
        net.set_submodule(found[-1], _new_head(net.get_submodule(found[-1]), rows))
    elif len(rows) != old_classes or any(row not in (None, place) for place, row in enumerate(rows)):
        # One without such a layer, as when it is scripted, may have the right number of classes, in their order.
        raise _no_head(classifier.name, f"no last layer of {old_classes} outputs is in it")
    tuned = Classifier(classifier.name, net, classifier.preprocessing, class_names, class_ids)
    tuned.requires_grad_(True)
    _freeze_unused(tuned)
    return tuned


def _outputs(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
        return module.out_channels
    return None


@torch.no_grad()
def _new_head(old: nn.Module, rows: Sequence[int | None]) -> nn.Module:
    new: nn.Linear | nn.Conv2d
    if isinstance(old, nn.Conv2d):
        new = nn.Conv2d(old.in_channels, len(rows), 1, bias=old.bias is not None)
    else:
        assert isinstance(old, nn.Linear)
        new = nn.Linear(old.in_features, len(rows), bias=old.bias is not None)
    for row, index in enumerate(rows):
        if index is not None:
            for name, value in new.named_parameters():
                value[row] = old.get_parameter(name)[index]
    return new


def _freeze_unused(tuned: Classifier) -> None:
    """Freeze what no logit depends on, as auxiliary heads: an update would wait for gradients that never come."""
    with torch.enable_grad():
        try:
            logits_1K = tuned(torch.zeros(1, 3, *tuned.preprocessing.size))
        except RuntimeError as error:  # two heads whose outputs are added
            raise _no_head(tuned.name, first_line(error)) from error
        if not isinstance(logits_1K, torch.Tensor) or logits_1K.shape != (1, len(tuned.class_names)):
            raise _no_head(tuned.name, "its last layer of that many outputs does not give its logits")
        if not logits_1K.requires_grad:
            raise _untrainable(tuned.name, "its logits have no gradient with respect to its weights")
        parameters = list(tuned.parameters())
        gradients = torch.autograd.grad(logits_1K.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


def _untrainable(name: str, reason: str) -> UsageError:
    return UsageError(f"{name} cannot be trained: {reason}", "give a network of float32 layers as --architecture")


def _no_head(name: str, reason: str) -> UsageError:
    return UsageError(f"the head of {name} cannot be replaced: {reason}", "choose another --architecture")
