"""Sample photos that installed packages contain, with their right classes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from latcli.errors import LatcliError

#: Package, and path of a photo in it.
_PHOTOS = (
    ("ultralytics", "assets/bus.jpg"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
)
#: Their right classes.
PACKAGE_LABELS = Path(__file__).with_name("package_photos.csv")


def package_photos() -> tuple[Path, ...]:
    """The photos. Raises LatcliError where a package does not contain its photo."""
    return tuple(_photo(package, path) for package, path in _PHOTOS)


def _photo(package: str, path: str) -> Path:
    spec = find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    photo = Path(folders[0], path) if folders else None
    if photo is None or not photo.is_file():
        raise LatcliError(
            f"the package {package} does not contain {Path(path).name}", f"reinstall it: pip install {package}"
        )
    return photo
