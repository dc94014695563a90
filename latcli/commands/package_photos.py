"""Photos that installed packages carry, with their right classes, for whoever has none; must not know any command."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from latcli.errors import LatcliError

#: Package, path of a photo in it, its right class.
_PHOTOS = (
    ("ultralytics", "assets/bus.jpg", "minibus"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "military uniform"),
)


def package_photos() -> dict[Path, str]:
    """The photos and the names of their classes. Raises LatcliError where a package does not carry its photo."""
    return {_photo(package, path): label for package, path, label in _PHOTOS}


def _photo(package: str, path: str) -> Path:
    spec = find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    photo = Path(folders[0], path) if folders else None
    if photo is None or not photo.is_file():
        raise LatcliError(
            f"the package {package} does not carry {Path(path).name}", f"reinstall it: pip install {package}"
        )
    return photo
