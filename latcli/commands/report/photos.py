"""Attacked photos as a report has them: rows and files of attack runs in, plain values out; must not read photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from latcli.commands.report.files import Care, Files
from latcli.documents import DocumentError, read_json
from latcli.errors import StoreError
from latcli.store.store import RunRow

#: Index, confidence and name; of early runs the name and the confidence.
_Guesses = list[tuple[int | str, float] | tuple[int, float, str]]
#: Left, top, right, bottom, score and name.
_Boxes = list[tuple[float, float, float, float, float, str]]
#: What an attack writes of each photo.
_KINDS = ("adversarial", "mask", "difference", "figure")
#: Options that say where the object is, in the order in which they count, and what they are called.
_PLACES = {"box": "box", "mask": "mask", "center": "center"}


def attack(
    run: RunRow, rows: Sequence[Mapping[str, Any]], names: Mapping[str, str], files: Files, care: Care
) -> dict[str, Any]:
    """One attack run: its protocol, summary and photos. `rows` are its rows of the table `attacks`.

    names: of models by id. Files that are not as they were written are None, and a fault.
    """
    images = [image_of(row) for row in rows]
    known = _known_names(images)
    for row, image in zip(rows, images, strict=True):
        for side in ("clean", "adversarial"):
            image[side]["top"] = [_guess(guess, known, image["label"]) for guess in image[side]["top"]]
        image["fooled"] = image["adversarial"]["rank"] > 1
        image["files"] = _files(run, row, files, care)
    first: Mapping[str, Any] = rows[0] if rows else {}
    config = run.config
    return {
        "run": run.id,
        "dir": str(run.path),
        "started": run.started,
        "classifier": names.get(run.model or "", config.get("classifier")),
        "detector": _detector(config),
        "region": config.get("region", "background"),
        "at_model_resolution": config.get("at_model_resolution"),
        **{name: first.get(name) for name in ("epsilon", "norm", "steps", "restarts")},
        "summary": summary(images),
        "images": images,
    }


def image_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """An attacked image in the shape that `latcli attack --json` has, from its row. Raises StoreError."""
    sides = {
        side: {key: row[f"{side}_{key}"] for key in ("prediction", "confidence", "rank")}
        | {"top": read_column(f"{side}_top_json", row[f"{side}_top_json"], _Guesses)}
        for side in ("clean", "adversarial")
    }
    measured = ("epsilon", "norm", "steps", "restarts", "altered_percent", "background_percent")
    return {
        "image": row["image"],
        "sha256": row["sha256"],
        "label": {"index": row["label_index"], "name": row["label_name"], "source": row["label_source"]},
        **sides,
        **{key: row[key] for key in (*measured, "linf_inside", "linf_outside")},
        "boxes": read_column("boxes_json", row["boxes_json"], _Boxes),
        "notes": read_column("notes_json", row["notes_json"], list[str]),
    }


def read_column(name: str, text: str | None, shape: Any = Any) -> Any:
    """What a JSON column of that name holds, an empty list where it is NULL. Raises StoreError."""
    try:
        return read_json(text or "[]", shape)
    except DocumentError as error:
        hint = "move the database away to start a new one; each run's folder keeps its run.json"
        raise StoreError(f"{name} in the database is damaged: {error}", hint) from error


def summary(images: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Averages over the photos, as in the last rows of the paper's tables."""
    if not images:
        return {"n": 0}
    return {
        "n": len(images),
        "fooled": sum(image["adversarial"]["rank"] > 1 for image in images),
        "altered_percent": fmean(image["altered_percent"] for image in images),
        "clean": _average([image["clean"] for image in images]),
        "adversarial": _average([image["adversarial"] for image in images]),
    }


def _known_names(images: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Names of classes by index, as far as the photos tell: of right classes and of first guesses."""
    labels = {image["label"]["index"]: image["label"]["name"] for image in images}
    sides = (image[side] for image in images for side in ("clean", "adversarial"))
    return labels | {side["top"][0][0]: side["prediction"] for side in sides if side["top"]}


def _guess(guess: Sequence[Any], known: Mapping[int, str], label: Mapping[str, Any]) -> dict[str, Any]:
    """A guess as it was kept: index, confidence and, since runs keep it, name. Early ones have the name alone."""
    index, confidence, *name = guess
    if isinstance(index, str):
        return {"index": None, "name": index, "confidence": confidence, "right": index == label["name"]}
    text = name[0] if name else known.get(index, f"class {index}")
    return {"index": index, "name": text, "confidence": confidence, "right": index == label["index"]}


def _average(sides: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counts = {
        name: sum(side["rank"] <= last for side in sides) for name, last in (("right", 1), ("top5", 5), ("top10", 10))
    }
    return counts | {"confidence": fmean(side["confidence"] for side in sides)}


def _detector(config: Mapping[str, Any]) -> str | None:
    for option, name in _PLACES.items():
        if config.get(option) not in (None, [], ()):
            return name
    found: str | None = config.get("detector")
    return found


def _files(
    run: RunRow,
    row: Mapping[str, Any],
    files: Files,
    care: Care,
) -> dict[str, str | None]:
    """The photo's files, of each kind the one that its row names."""
    names = read_column("files_json", row["files_json"] or "{}", dict[str, str])
    found: dict[str, Path | None] = {
        kind: files.sound(run, names[kind], care) if kind in names else None for kind in _KINDS
    }
    found["original"] = files.photo(run, row["image"], row["sha256"]) if care == "sha256" else None
    return {kind: None if path is None else str(path) for kind, path in found.items()}
