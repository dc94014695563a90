"""What a mask file means, and which one belongs to which photo."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePath

import torch

from latcli.engine import images
from latcli.errors import UsageError


def read_mask(path: Path, size: tuple[int, int]) -> tuple[torch.Tensor, tuple[str, ...]]:
    """A mask file as mask_1HW, white on the object, and notes on how it was read. Raises ImageError."""
    return images.read_mask(path, size), ()


class MaskFolder:
    """The masks below a folder, which lie and are named as their photos."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mask_of(self, photo: PurePath) -> Path:
        """The mask of a photo: the longest end of its path that is there. Raises UsageError where it has none."""
        parts = photo.parent.parts
        for first in range(len(parts) + 1):
            folder = self.folder.joinpath(*(part for part in parts[first:] if part != photo.anchor))
            found = sorted(folder.glob(f"{photo.stem}.*")) if folder.is_dir() else []
            if found:
                return found[0]
        raise UsageError(
            f"the mask folder {self.folder} has no file called {photo.stem}.*", "masks lie and are named as photos"
        )

    def refuse_shared(self, photos: Iterable[PurePath]) -> None:
        """Raise UsageError where two photos have the same mask."""
        taken: dict[Path, PurePath] = {}
        for photo in photos:
            if (other := taken.setdefault(self.mask_of(photo), photo)) != photo:
                raise UsageError(f"{other} and {photo} have the same mask", "lay masks as the photos lie")
