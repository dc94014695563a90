"""`latcli mask`: photos in, the masks of their objects out, as files that a person can look at and correct."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path, PurePath
from typing import Any

from latcli.commands.photos import PhotoWork, located_values
from latcli.commands.pictures import overlay
from latcli.engine import registry
from latcli.engine.images import encode_png
from latcli.engine.photos import PhotoAttacker, PhotoSettings
from latcli.errors import UsageError
from latcli.options import MaskOptions
from latcli.results import MaskedPhoto, MaskResult, to_json
from latcli.session import Session
from latcli.store.files import storage_errors, write_whole
from latcli.store.store import Store

#: Below the folder of masks: photos on which the masks can be seen.
OVERLAYS = "overlays"


def run(options: MaskOptions, session: Session) -> MaskResult:
    """Write the mask of every photo below `out`, named and nested as the photos are, and an overlay of each.

    Raises as `attack` does, and UsageError where two photos would have the same mask.
    """
    work = PhotoWork(options, session)
    places = mask_places([source.path for source in work.sources], options.photos)
    attacker = PhotoAttacker(work.classifier, work.finder, registry.load("attack", "pgd"), PhotoSettings())
    shown: dict[str, Any] = {"out": options.out, "classifier": work.classifier.name, "detector": options.detector}
    config: dict[str, Any] = to_json({k: v for k, v in asdict(options).items() if k != "trust_weights"})
    with Store.open(session.store) as store:
        model = store.record_model(work.classifier.name, weights_sha256=work.classifier.fingerprint)
        with store.start_run(
            "mask",
            **session.of_run(),
            config=config,
            seed=session.seed,
            device=str(attacker.device),
            model=model,
        ) as stored:
            masked = []
            for located in work.located(attacker, store):
                place = places[work.position(located.photo.name)]
                pictures = {"mask": encode_png(located.mask_HW), "overlay": overlay(located)}
                files = {"mask": options.out / place, "overlay": options.out / OVERLAYS / place}
                for kind, png in pictures.items():
                    _write(files[kind], png)
                    stored.write_artifact(f"{kind}s/{place.as_posix()}", png, kind, located.photo.sha256)
                files_text = {kind: str(path) for kind, path in files.items()}
                masked.append(MaskedPhoto(**located_values(located), files=files_text))
            result = MaskResult(
                **shown, run=stored.id, dir=stored.folder, images=tuple(masked), failures=tuple(work.failures)
            )
            stored.set_exit_code(result.exit_code)
    return result


def mask_places(photos: list[Path], arguments: tuple[str, ...]) -> list[PurePath]:
    """Where each photo's mask lies below the folder of masks: as the photo does below the folder that was named.

    A photo that was named itself lies at the top. Raises UsageError where two photos would share a place.
    """
    folders = [Path(argument) for argument in arguments if Path(argument).is_dir()]
    places: dict[PurePath, Path] = {}
    for photo in photos:
        folder = next((one for one in folders if photo.is_relative_to(one)), photo.parent)
        name = PurePath("stdin") if str(photo) == "-" else PurePath(photo.relative_to(folder))
        place = name.with_suffix(".png")
        if (other := places.setdefault(place, photo)) != photo:
            raise UsageError(
                f"{other} and {photo} would both have the mask {place}",
                "name the folder that contains both: masks lie as their photos do",
            )
    return list(places)


def _write(path: Path, png: bytes) -> None:
    with storage_errors(path, "--out DIR"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, [png])
