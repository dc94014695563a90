"""Photos to time things on: a folder's, or those that installed packages carry; must not import torch."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

#: Package and path of a photo in it. All come with latcli's own requirements.
_CARRIED = (
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
    ("ultralytics", "assets/bus.jpg"),
)


def carried() -> list[Path]:
    """Photos of installed packages, found without importing these."""
    found = []
    for package, path in _CARRIED:
        spec = find_spec(package)
        files = [Path(place, path) for place in (spec.submodule_search_locations or [])] if spec else []
        found += [file for file in files if file.exists()]
    return found


def photo_files(folder: Path) -> list[Path]:
    """The photos of a folder and the folders in it, in order."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))


def copies(photos: list[Path], count: int, folder: Path) -> Path:
    """A new folder of `count` photos: the given ones again and again, each with other bytes behind its end.

    The other bytes keep anything from being found in a cache of images that were seen before.
    """
    folder.mkdir()
    for index in range(count):
        source = photos[index % len(photos)]
        (folder / f"{index:04d}{source.suffix}").write_bytes(source.read_bytes() + b"%d" % index)
    return folder


def add_photos(parser: argparse.ArgumentParser) -> None:
    """The option that names a folder of photos."""
    about = "a folder of photos; default: four that latcli's requirements carry"
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help=about)


def given_photos(folder: Path | None) -> list[Path]:
    """The folder's photos, or the carried ones without a folder."""
    return photo_files(folder) if folder else carried()
