"""A classifier that takes images in [0, 1]: its network, class names, preprocessing, identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from torch import nn

from latcli.engine.labels import known_class
from latcli.engine.models.preprocessing import Normalize, Preprocessing
from latcli.engine.models.weights import names_in, state_dict_sha256
from latcli.errors import LatcliError, UsageError
from latcli.results import Guess, Prediction


class AnyChannels(nn.Module):
    """Lets a network of one channel, or of three, read both: three become their mean, one becomes all three."""

    def __init__(self, net: nn.Module, channels: int) -> None:
        super().__init__()
        self.net, self.channels = net, channels

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """logits_BK of images with one channel or three."""
        if x_BCHW.shape[1] != self.channels:
            x_BCHW = x_BCHW.mean(dim=1, keepdim=True) if self.channels == 1 else x_BCHW.expand(-1, 3, -1, -1)
        logits_BK: torch.Tensor = self.net(x_BCHW)
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
def finite_logits(model: Callable[[torch.Tensor], torch.Tensor], x_BCHW: torch.Tensor, name: str) -> torch.Tensor:
    """What a model says of images in [0, 1]: logits_BK, computed in fp32, as float64 on the CPU.

    Raises LatcliError, in which the model is called `name`, for NaN or infinite logits.
    """
    # A sure model's loss is lost in float32; and Apple's GPUs have no float64, so to the CPU first.
    logits_BK = model(x_BCHW).float().cpu().double()
    bad_B = ~torch.isfinite(logits_BK).all(dim=1)
    if bad_B.any():
        raise LatcliError(
            f"{name} returns NaN or infinite logits for {int(bad_B.sum())} of {len(bad_B)} images",
            "check its weights and the range of its input; a model that diverged cannot be evaluated",
        )
    return logits_BK


def predict(
    classifier: Classifier, x_BChw: torch.Tensor, labels: Sequence[int | None], shown: int = 5
) -> list[Prediction]:
    """Score images against their labels in fp32: the only way in which latcli reports a prediction.

    An image whose label is None is scored against its own top guess.

    Raises LatcliError where the classifier returns NaN or infinite logits.
    """
    log_p_BK = finite_logits(classifier, x_BChw, classifier.name).log_softmax(dim=1)
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
    knows none of the names but has as many classes is taken as it is. Raises UsageError as `class_rows` does.
    """
    as_many = len(classifier.class_names) == len(class_names)
    if classifier.class_names == tuple(class_names) or (
        as_many and not any(known_class(name, classifier) for name in class_names)
    ):
        return classifier
    first = class_rows(classifier, class_names, where)
    order = [*first, *sorted(set(range(len(classifier.class_names))).difference(first))]
    names = [classifier.class_names[index] for index in order]
    ids = [classifier.class_ids[index] for index in order] if classifier.class_ids else ()
    net = Reordered(classifier.net, torch.tensor(order, device=classifier.device))
    return Classifier(classifier.name, net, classifier.preprocessing, names, ids)


def class_rows(classifier: Classifier, class_names: Sequence[str], where: str) -> list[int]:
    """Which of the classifier's classes each of these names or WordNet ids is, by its index.

    `where` has the classes, for errors. Raises UsageError for a class that the classifier does not have, and for two
    that are the same one.
    """
    first: dict[int, str] = {}
    for name in class_names:
        label = known_class(name, classifier)
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
    return list(first)


@dataclass(frozen=True)
class ClassifierSource:
    """Where a classifier's weights come from, and what replaces its own description.

    weights: a file; None for the library's own way, which `offline` keeps from downloading; `progress` shows a download
    on stderr. class_names: a file with one name a line, or a JSON list or mapping from index to name. mean, std: of the
    normalisation, of one channel or of each. input_size: (h, w) of the network's input. resize: "squash", or "crop" for
    the middle of a photo whose short side is the input's, or the pixels of the short side that the middle is cropped
    from. note: gets lines for the user.
    """

    weights: Path | None = None
    offline: bool = False
    progress: bool = False
    class_names: Path | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    input_size: tuple[int, int] | None = None
    resize: str | int | None = None
    note: Callable[[str], None] = lambda text: None

    def refuse_description(self, name: str) -> None:
        """Raise UsageError where the user describes a classifier that describes itself."""
        options = {
            "--class-names": self.class_names,
            "--mean": self.mean,
            "--std": self.std,
            "--input-size": self.input_size,
            "--resize": self.resize,
        }
        if given := " and ".join(option for option, value in options.items() if value):
            raise UsageError(f"{given} cannot be used with {name}, which describes itself", f"leave {given} out")

    def classifier(
        self,
        name: str,
        net: nn.Module,
        classes: int,
        preprocessing: Preprocessing,
        class_names: Sequence[str] = (),
        class_ids: Sequence[str] = (),
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
    ) -> Classifier:
        """The classifier of a network that returns `classes` logits: what is given here, where the user says nothing.

        Class names are `class 0`, `class 1` and so on where there are none, or another number of them. Raises
        UsageError for a file of names that does not fit, and for a mean or std of the wrong length.
        """
        names = tuple(class_names)
        if self.class_names is not None:
            names = read_class_names(self.class_names)
            if len(names) != classes:
                raise UsageError(
                    f"{self.class_names} has {len(names):,} names, but {name} has {classes:,} classes",
                    "give one name for each class, in the order of the logits",
                )
        elif len(names) != classes:
            names = tuple(f"class {index}" for index in range(classes))
        ids = class_ids if names == tuple(class_names) else ()
        sha256 = state_dict_sha256(net.state_dict())
        mean, std = self.mean or mean, self.std or std
        if mean or std:
            mean, std = mean or (0.0,), std or (1.0,)
            if not {len(mean), len(std)} <= {1, 3} or min(std) <= 0.0:
                raise UsageError(
                    f"--mean has {len(mean)} numbers and --std {len(std)}: each needs one or three, and --std numbers "
                    "above 0",
                    "give one number, or one for each channel: --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
                )
            net = nn.Sequential(Normalize(mean, std), net)
        return Classifier(name, net, self.preprocessing(preprocessing), names, ids, sha256)

    def preprocessing(self, own: Preprocessing) -> Preprocessing:
        """The classifier's own, changed as was asked for."""
        if self.resize is None and self.input_size is None:
            return own
        size = self.input_size or own.size
        if self.resize == "squash":
            return replace(own, resize=size, crop=size, mode="squash")
        if self.resize is not None:
            return replace(own, resize=size if self.resize == "crop" else int(self.resize), crop=size, mode="crop")
        scale = own.size[0] / min(own.target)
        return replace(own, resize=(int(size[0] / scale), int(size[1] / scale)), crop=size)


#: A classifier as it is published, of which the user says nothing.
AS_PUBLISHED = ClassifierSource()


def read_class_names(path: Path) -> tuple[str, ...]:
    """The names in a file: one a line, or JSON. Raises UsageError for anything else."""
    hint = 'one name a line, or JSON: ["cat", "dog"], or {"0": "cat", "1": "dog"}'
    try:
        text = path.read_text(encoding="utf-8-sig")
        found = json.loads(text) if path.suffix == ".json" else [line.strip() for line in text.splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"cannot read the class names {path}: {error}", hint) from error
    names = names_in(found)
    if not names:
        raise UsageError(f"{path} holds no class names", hint)
    return names
