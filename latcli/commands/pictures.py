"""The pictures of attacked photos, drawn on a thread while the next photos are attacked."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from latcli.engine.images import encode_png
from latcli.engine.photos import Located, PhotoAttacker, PhotoResult
from latcli.reporting.figures import Guess, Panel, amplified_difference, triptych_on_thread, without_glyph_warnings
from latcli.results import Prediction


@dataclass(frozen=True)
class Picture:
    """A file to be: kind (mask, difference, figure), name, the sha256 of the photo that it shows, PNG bytes."""

    kind: str
    file_name: str
    image: str
    png: bytes


class PictureDrawer:
    """Draws what shows a result: the mask, the amplified difference and, unless `figures` is False, Figure 1.

    A context, since its thread has an end. What is drawn differs in no byte from what one thread would draw.
    """

    def __init__(self, attacker: PhotoAttacker, figures: bool) -> None:
        self.attacker = attacker
        self._figures = figures
        # One thread: matplotlib bears no two, and the attack wants the other cores.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pictures")
        self._asked: list[tuple[PhotoResult, dict[str, str]]] = []
        self._begun: list[tuple[str, str, str, Future[bytes]]] = []
        self._masks: set[str] = set()
        self._context = ExitStack()

    def __enter__(self) -> Self:
        self._context.enter_context(without_glyph_warnings())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
        self._context.close()

    def ask(self, attacked: PhotoResult, stem: str, suffix: str = "") -> dict[str, str]:
        """Ask for a result's pictures; returns the names of their files by kind. The mask is one for each stem."""
        names = {"mask": f"{stem}-mask.png", "difference": f"{stem}{suffix}-difference.png"}
        if self._figures:
            names["figure"] = f"{stem}{suffix}-figure.png"
        self._asked.append((attacked, {k: v for k, v in names.items() if k != "mask" or stem not in self._masks}))
        self._masks.add(stem)
        return names

    def begin(self) -> None:
        """Have the thread draw what was asked for."""
        asked, self._asked = self._asked, []
        for attacked, names in asked:
            drawings = {"difference": self._thread.submit(_difference, attacked)}
            if "mask" in names:
                drawings["mask"] = self._thread.submit(encode_png, attacked.located.mask_HW)
            if "figure" in names:
                # The classifier is asked here, where the attack is not running beside it.
                drawings["figure"] = self._thread.submit(triptych_on_thread, *self._figure_1(attacked))
            for kind, drawing in drawings.items():
                self._begun.append((kind, names[kind], attacked.located.photo.sha256, drawing))

    def drawn(self) -> Iterator[Picture]:
        """The pictures that were asked for, in their order; waits for them."""
        self.begin()
        while self._begun:
            kind, name, image, drawing = self._begun.pop(0)
            yield Picture(kind, name, image, drawing.result())

    def drop_figures(self) -> None:
        """Leave out the figures that are not being drawn yet, which are what takes time: nobody waits for them."""
        for _, names in self._asked:
            names.pop("figure", None)
        self._begun = [begun for begun in self._begun if not (begun[0] == "figure" and begun[3].cancel())]

    def _figure_1(self, attacked: PhotoResult) -> tuple[list[Panel], str]:
        one, change = attacked.located, attacked.change
        object_HWC, object_only = self.attacker.object_only(one)
        panels = [
            _panel("photo", one.photo.levels_HWC, one.clean, one),
            _panel("background blacked out", object_HWC, object_only, one),
            _panel("adversarial photo", attacked.adversarial_HWC, attacked.adversarial, one),
        ]
        caption = (
            f"{one.label.name}: {100 * change.altered:.1f} % of pixels altered, by at most "
            f"{255 * change.linf_outside:.0f}/255; {self.attacker.classifier.name}, object from {one.found.how}"
        )
        return panels, caption


def _panel(title: str, levels_HWC: np.ndarray, prediction: Prediction, one: Located) -> Panel:
    guesses = [Guess(guess.name, guess.p, guess.index == one.label.index) for guess in prediction.top]
    if not any(guess.right for guess in guesses):
        guesses.append(Guess(f"{one.label.name} (rank {prediction.rank})", prediction.confidence, True))
    return Panel(title, levels_HWC, guesses)


def _difference(attacked: PhotoResult) -> bytes:
    # The largest change of the whole photo becomes the largest that a picture can show.
    gain = 127.0 / max(1.0, 255.0 * attacked.change.linf_outside)
    shown_HWC = amplified_difference(attacked.located.photo.levels_HWC, attacked.adversarial_HWC, gain)
    return encode_png(shown_HWC)


def overlay(located: Located) -> bytes:
    """PNG of a photo with its background darkened, and the edge of the object drawn on it in magenta."""
    import cv2

    object_HW1 = located.mask_HW[:, :, None] / 255.0
    grey_HW1 = located.photo.levels_HWC.mean(axis=2, keepdims=True)
    shown_HWC = np.rint(object_HW1 * located.photo.levels_HWC + (1.0 - object_HW1) * 0.35 * grey_HW1).astype(np.uint8)
    outlines, _ = cv2.findContours((located.mask_HW >= 128).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(max(located.photo.size) / 300))
    return encode_png(cv2.drawContours(np.ascontiguousarray(shown_HWC), outlines, -1, (255, 0, 200), thickness))
