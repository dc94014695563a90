"""`latcli mask`: photos in, the masks of their objects out, as files that a person can look at and correct."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import Any

from latcli.commands.photos import Chunk, PhotoWork, located_values, open_photos, overlay
from latcli.engine import registry
from latcli.engine.images import encode_png
from latcli.engine.photo_files import MASKS_MARK, PhotoSource
from latcli.engine.photos import Located, PhotoAttacker, PhotoSettings
from latcli.errors import ExitCode, UsageError
from latcli.options import MaskOptions
from latcli.results import MOST_RESULTS, Failure, MaskedPhoto, MaskResult, to_json
from latcli.session import Session, common_folder, connected
from latcli.store.files import stage, storage_errors, write_whole
from latcli.store.store import Store

#: Below the folder of masks: photos on which the masks can be seen.
OVERLAYS = "overlays"


def run(options: MaskOptions, session: Session) -> MaskResult:
    """Write the mask of every photo below `out`, named and nested as the photos are, and an overlay of each.

    Raises as `attack` does, and UsageError where two photos would have the same mask.
    """
    ranks, session = connected(options, session)
    work = open_photos(options, session, ranks)
    places = mask_places([source.path for source in work.sources], options.photos)
    _refuse_among_photos(work.sources, places, options.out)
    attacker = PhotoAttacker(work.classifier, work.finder, registry.load("attack", "pgd"), PhotoSettings())
    if ranks.rank:
        folder = common_folder(ranks, None)
        work.share(ranks)
        masked = _masked(folder, options.out, places, work.located(attacker, None), work)
        deque(ranks.collected(masked), maxlen=0)
        sys.exit(ExitCode.OK)
    config: dict[str, Any] = to_json({k: v for k, v in asdict(options).items() if k != "trust_weights"})
    config |= ranks.world
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
            common_folder(ranks, stored.folder)
            with storage_errors(options.out, "--out DIR"):
                options.out.mkdir(parents=True, exist_ok=True)
                (options.out / MASKS_MARK).write_text("latcli mask wrote here; photos are not looked for below.\n")
            images, failures, count = list[MaskedPhoto](), list[Failure](), 0
            with session.progress("photos", work.share(ranks), noted=True) as tick:
                chunks = _masked(stored.folder, options.out, places, work.located(attacker, store), work)
                for _, chunk in ranks.collected(chunks):
                    stored.keep(chunk.files)
                    images += [one for one in chunk.results if work.position(one.image) < MOST_RESULTS]
                    count += len(chunk.results)
                    failures += chunk.failures
                    tick(chunk.done)
            result = MaskResult(
                run=stored.id,
                dir=stored.folder,
                out=options.out,
                classifier=work.classifier.name,
                detector=options.detector,
                masked=count,
                images=work.in_order(images),
                failures=work.in_order(failures),
            )
            stored.set_exit_code(result.exit_code)
    return result


def _masked(
    folder: Path, out: Path, places: Sequence[PurePath], photos: Iterable[Located], work: PhotoWork
) -> Iterator[Chunk[MaskedPhoto]]:
    """Each photo's mask and overlay, written below `out`, and for the run, whose folder is given."""
    for located in photos:
        place = places[work.position(located.photo.name)]
        pictures = {"mask": encode_png(located.mask_HW), "overlay": overlay(located)}
        paths = {"mask": out / place, "overlay": out / OVERLAYS / place}
        for kind, png in pictures.items():
            with storage_errors(paths[kind], "--out DIR"):
                paths[kind].parent.mkdir(parents=True, exist_ok=True)
                write_whole(paths[kind], [png])
        sha256 = located.photo.sha256
        files = [stage(folder, f"{kind}s/{place.as_posix()}", png, kind, sha256) for kind, png in pictures.items()]
        one = MaskedPhoto(**located_values(located), files={kind: str(path) for kind, path in paths.items()})
        yield work.chunk([one], files, [located.photo.name])
    yield work.chunk()


def _refuse_among_photos(photos: Sequence[PhotoSource], places: Sequence[PurePath], out: Path) -> None:
    """Raise UsageError where a mask or overlay would lie among the photos, where it could take the place of one."""
    named = {source.path.parent for source in photos if not source.is_stdin}
    of_photos = {folder.resolve() for folder in named}
    for folder in dict.fromkeys((below / place).parent for place in places for below in (out, out / OVERLAYS)):
        if folder.resolve() in of_photos:
            raise UsageError(
                f"masks would be written among the photos, into {folder}", "name another folder: --out masks"
            )


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
