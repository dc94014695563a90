"""The user's description of a classifier besides its name: weights, class names, how photos are prepared."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from latcli.engine.models.classifier import Classifier
from latcli.engine.models.preprocessing import Normalize, Preprocessing
from latcli.engine.models.weights import names_in, state_dict_sha256
from latcli.errors import UsageError


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

    @property
    def described(self) -> str:
        """The options that describe the classifier itself and are given, for errors; empty where none is."""
        given = {
            "--class-names": self.class_names,
            "--mean": self.mean,
            "--std": self.std,
            "--input-size": self.input_size,
            "--resize": self.resize,
        }
        return " and ".join(name for name, value in given.items() if value)

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
            net = nn.Sequential(_normalize(mean or (0.0,), std or (1.0,)), net)
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


def _normalize(mean: Sequence[float], std: Sequence[float]) -> Normalize:
    if not {len(mean), len(std)} <= {1, 3} or min(std) <= 0.0:
        raise UsageError(
            f"--mean has {len(mean)} numbers and --std {len(std)}: each needs one or three, and --std numbers above 0",
            "give one number, or one for each channel: --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
        )
    return Normalize(mean, std)
