"""What an attacked photo leaves in its run: pictures, a row, names; must not know how photos are attacked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from latcli.commands.attack.pictures import PictureDrawer
from latcli.commands.attack.result import AttackedPhoto, BoxRow
from latcli.engine.models.classifier import Prediction
from latcli.engine.photos import Localized, PhotoResult
from latcli.errors import StoreError
from latcli.reporting.text import printable
from latcli.store.store import Run, Store


@dataclass
class Keeper:
    """Writes results into a run, one photo at a time: files first, rows after; pictures as they are drawn.

    `protocol` are the columns of the table `attacks` that all photos share. A context: where it is left by an error or
    an interruption, the pictures that were begun are kept, but for figures that would have to be waited for.
    """

    drawer: PictureDrawer
    store: Store
    run: Run
    protocol: dict[str, object]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.drawer.drop_figures()
            with suppress(StoreError):  # what went wrong first is what is told
                self.keep_pictures()

    def keep(self, attacked: PhotoResult, file_name: str) -> AttackedPhoto:
        """Write the adversarial photo and its rows, begin its pictures, and put its result into plain values."""
        one = attacked.localized
        files = {"adversarial": f"{file_name}-adversarial.png"}
        self.run.write_artifact(files["adversarial"], attacked.adversarial_png, "adversarial", one.photo.sha256)
        files |= self.drawer.begin(attacked, file_name)
        photo = AttackedPhoto(
            image=one.photo.name,
            label=one.label,
            clean=one.clean,
            adversarial=attacked.adversarial,
            altered_percent=100 * attacked.altered_share,
            background_percent=100 * one.background_share,
            visible_background_percent=100 * one.visible_share,
            linf_inside=attacked.linf_inside,
            linf_outside=attacked.linf_outside,
            l2=attacked.l2,
            boxes=box_rows(one),
            how=one.how,
            notes=one.photo.notes,
            files=files,
        )
        height, width = one.photo.size
        place = {"image": photo.image, "sha256": one.photo.sha256, "height": height, "width": width}
        self.run.insert("attacks", [place | self._row(photo)])
        return photo

    def keep_pictures(self) -> None:
        """Write the pictures that were begun."""
        for picture in self.drawer.drawn():
            self.run.write_artifact(picture.file_name, picture.png, picture.kind)

    def _named(self, prediction: Prediction) -> list[tuple[int, float, str]]:
        """The first guesses as index, confidence and name, for readers who do not have the classifier."""
        names = self.drawer.attacker.classifier.class_names
        return [(index, confidence, names[index]) for index, confidence in prediction.top]

    def _row(self, photo: AttackedPhoto) -> dict[str, object]:
        return self.protocol | {
            "fooled": photo.fooled,
            "label_index": photo.label.index,
            "label_name": photo.label.name,
            "label_source": photo.label.source,
            "clean_prediction": photo.clean.name,
            "clean_confidence": photo.clean.confidence,
            "clean_rank": photo.clean.rank,
            "adversarial_prediction": photo.adversarial.name,
            "adversarial_confidence": photo.adversarial.confidence,
            "adversarial_rank": photo.adversarial.rank,
            "altered_percent": photo.altered_percent,
            "background_percent": photo.background_percent,
            "linf_inside": photo.linf_inside,
            "linf_outside": photo.linf_outside,
            "boxes_json": photo.boxes,
            "clean_top_json": self._named(photo.clean),
            "adversarial_top_json": self._named(photo.adversarial),
            "notes_json": photo.notes,
            "files_json": photo.files,
        }


def box_rows(one: Localized) -> tuple[BoxRow, ...]:
    """Boxes as the JSON document holds them: x0, y0, x1, y1, score, name."""
    return tuple((box.x0, box.y0, box.x1, box.y1, box.score, box.name) for box in one.boxes)


def file_names(photo_names: Sequence[str]) -> dict[str, str]:
    """For each photo the beginning of its files' names, such that any file system takes them and no two are alike."""
    taken: set[str] = set()
    names = {}
    for photo_name in photo_names:
        last = re.split(r"[/\\]", photo_name)[-1]
        safe = re.sub(r"[^\w.-]+", "_", printable(last.rpartition(".")[0] or last))[:80].lstrip("._")
        stem = safe.encode()[:200].decode(errors="ignore") or "photo"  # file systems count bytes
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names[photo_name] = name
    return names
