"""The user's description of a classifier besides its name: weights, class names, how photos are prepared."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from latcli.engine.models.preprocessing import Normalize, Preprocessing
from latcli.errors import UsageError


def _silent(text: str) -> None:
    """Where nobody wants to hear notes."""


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
    note: Callable[[str], None] = _silent

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

    def normalize(self, mean: Sequence[float], std: Sequence[float]) -> Normalize:
        """The normalisation that was given, else this one."""
        mean, std = self.mean or mean, self.std or std
        count = max(len(mean), len(std))
        if {len(mean), len(std)} - {1, count} or min(std) <= 0.0:
            raise UsageError(
                "--mean and --std do not have as many numbers as each other, or --std is not above 0",
                "give one number, or one for each channel: --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
            )
        return Normalize([*mean] * (count // len(mean)), [*std] * (count // len(std)))

    def preprocessing(self, own: Preprocessing) -> Preprocessing:
        """The classifier's own, changed as was asked for."""
        size = self.input_size or own.size
        if self.resize is None and self.input_size is None:
            return own
        if self.resize is None:
            scale = own.size[0] / min(own.resize if isinstance(own.resize, tuple) else (own.resize, own.resize))
            resized = tuple(int(side / scale) for side in size)
            return replace(own, resize=(resized[0], resized[1]), crop=size)
        if self.resize == "squash":
            return replace(own, resize=size, crop=size, mode="squash")
        short = size if self.resize == "crop" else int(self.resize)
        return replace(own, resize=short, crop=size, mode="crop")

    def names_of(self, count: int, own: Sequence[str], what: str) -> tuple[str, ...]:
        """The names of `count` classes: of the file that was given, else `own` where they are as many, else indices.

        Raises UsageError for a file that cannot be read or has another number of names.
        """
        if self.class_names is None:
            return tuple(own) if len(own) == count else tuple(f"class {index}" for index in range(count))
        names = read_class_names(self.class_names)
        if len(names) != count:
            raise UsageError(
                f"{self.class_names} has {len(names):,} names, but {what} has {count:,} classes",
                "give one name for each class, in the order of the logits",
            )
        return names


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


def names_in(found: object) -> tuple[str, ...]:
    """Class names in plain values: a list, index to name (also Hugging Face's), or name to index; empty without any."""
    if isinstance(found, dict):
        try:
            if all(isinstance(value, int) for value in found.values()):
                found = {index: name for name, index in found.items()}
            by_index = {int(index): name for index, name in found.items()}
            found = [by_index[index] for index in range(len(by_index))]
        except (ValueError, TypeError, KeyError):
            return ()
    if not isinstance(found, list | tuple):
        return ()
    names = tuple(" ".join(name.split()) if isinstance(name, str) else "" for name in found)
    while names and not names[-1]:  # empty lines at the end
        names = names[:-1]
    return names if all(names) else ()
