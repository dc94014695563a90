"""`latcli demo`: the main job on photos that installed packages carry, offline; must not know how it is shown."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from latcli.commands.attack import AttackOptions
from latcli.commands.attack import run as run_attack
from latcli.commands.attack_result import AttackResult
from latcli.commands.session import Session
from latcli.errors import ExitCode, LatcliError

#: Package, path of a photo in it, its right class.
_PHOTOS = (
    ("ultralytics", "assets/bus.jpg", "minibus"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "military uniform"),
)


@dataclass(frozen=True)
class DemoResult:
    """What the demo did, and what to try after it."""

    attack: AttackResult
    next_commands: tuple[str, ...]

    @property
    def exit_code(self) -> ExitCode:
        """That of the attack."""
        return self.attack.exit_code

    def to_json(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        return {"attack": self.attack.to_json(), "next": list(self.next_commands)}


def run(session: Session) -> DemoResult:
    """Attack the photos with the embedded classifier and its activation map; nothing is downloaded.

    Raises LatcliError where the packages do not carry their photos.
    """
    photos = {str(_photo(package, path)): label for package, path, label in _PHOTOS}
    session.note("attacking the backgrounds of two photos that ultralytics and matplotlib carry, 40 steps each")
    with TemporaryDirectory() as folder:
        labels = Path(folder, "labels.csv")
        with labels.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("file", "name"), *photos.items()])
        options = AttackOptions(photos=tuple(photos), labels=labels, detector="cam")
        result = run_attack(options, replace(session, offline=True))
    store = "" if session.store == Path("runs") else f" --store {session.store}"
    suffix = (result.run or "")[-4:]
    return DemoResult(
        result,
        (
            "latcli attack PHOTO.jpg --detector cam",
            "latcli attack FOLDER --labels LABELS.csv --epsilon 4/255",
            "latcli attack PHOTO.jpg --box 40,30,200,180 --stop top1",
            f"latcli runs show {suffix}{store}",
            "latcli doctor",
        ),
    )


def _photo(package: str, path: str) -> Path:
    spec = find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    photo = Path(folders[0], path) if folders else None
    if photo is None or not photo.is_file():
        raise LatcliError(
            f"the package {package} does not carry {Path(path).name}", f"reinstall it: pip install {package}"
        )
    return photo
