"""What an attacked photo leaves in its run: pictures, a row, names; must not know how photos are attacked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latcli.commands.attack_result import AttackedPhoto, BoxRow
from latcli.engine.images import encode_png
from latcli.engine.models.classifier import Prediction
from latcli.engine.photos import Localized, PhotoAttacker, PhotoResult
from latcli.reporting.figures import Guess, Panel, amplified_difference, triptych
from latcli.reporting.text import printable
from latcli.store.database import Store
from latcli.store.run import Run


@dataclass
class Keeper:
    """Writes results into a run, one photo at a time: files first, rows after.

    `protocol` are the columns of the table `attacks` that all photos share; `figures` False leaves out Figure 1.
    """

    attacker: PhotoAttacker
    store: Store
    run: Run
    protocol: dict[str, object]
    figures: bool
    kept: int = 0

    def keep(self, attacked: PhotoResult, file_name: str) -> AttackedPhoto:
        """Write a photo's files and rows, and put its result into plain values."""
        one = attacked.localized
        contents = self._pictures(attacked)
        files = {kind: f"{file_name}-{kind}.png" for kind in contents}
        for kind, data in contents.items():
            self.run.write_artifact(files[kind], data, kind)
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
        self.store.record_image(one.photo.sha256, one.photo.name, width, height)
        self.run.record_attack(self._row(photo, one.photo.sha256))
        self.kept += 1
        return photo

    def _pictures(self, attacked: PhotoResult) -> dict[str, bytes]:
        one = attacked.localized
        # The largest change of the whole photo becomes the largest that a picture can show.
        gain = 127.0 / max(1.0, 255.0 * attacked.linf_outside)
        pictures = {
            "adversarial": attacked.adversarial_png,
            "mask": encode_png(one.mask_HW),
            "difference": encode_png(amplified_difference(one.photo.levels_HWC, attacked.adversarial_HWC, gain)),
        }
        if self.figures:
            pictures["figure"] = self._figure_1(attacked)
        return pictures

    def _figure_1(self, attacked: PhotoResult) -> bytes:
        one = attacked.localized
        object_HWC, object_only = self.attacker.object_only(one)
        panels = [
            self._panel("photo", one.photo.levels_HWC, one.clean, one),
            self._panel("background blacked out", object_HWC, object_only, one),
            self._panel("adversarial photo", attacked.adversarial_HWC, attacked.adversarial, one),
        ]
        caption = (
            f"{one.label.name}: {100 * attacked.altered_share:.1f} % of pixels altered, by at most "
            f"{255 * attacked.linf_outside:.0f}/255; {self.attacker.classifier.name}, object from {one.how}"
        )
        return triptych(panels, caption)

    def _panel(self, title: str, levels_HWC: np.ndarray, prediction: Prediction, one: Localized) -> Panel:
        names = self.attacker.classifier.class_names
        guesses = [Guess(names[index], confidence, index == one.label.index) for index, confidence in prediction.top]
        if not any(guess.right for guess in guesses):
            guesses.append(Guess(f"{one.label.name} (rank {prediction.rank})", prediction.confidence, True))
        return Panel(title, levels_HWC, guesses)

    def _named(self, prediction: Prediction) -> list[tuple[int, float, str]]:
        """The first guesses as index, confidence and name, for readers who do not have the classifier."""
        names = self.attacker.classifier.class_names
        return [(index, confidence, names[index]) for index, confidence in prediction.top]

    def _row(self, photo: AttackedPhoto, sha256: str) -> dict[str, object]:
        return self.protocol | {
            "image": sha256,
            "position": self.kept,
            "name": photo.image,
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
