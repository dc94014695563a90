"""The pictures of attacked photos, drawn on a thread while the next photos are attacked; must not know the store."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from latcli.engine.images import encode_png
from latcli.engine.models.classifier import Prediction
from latcli.engine.photos import Localized, PhotoAttacker, PhotoResult
from latcli.reporting.figures import Guess, Panel, amplified_difference, triptych_on_thread, without_glyph_warnings


@dataclass(frozen=True)
class Picture:
    """A file to be: its kind (mask, difference, figure), its name, and its PNG bytes."""

    kind: str
    file_name: str
    png: bytes


class PictureDrawer:
    """Draws what shows a result: the mask, the amplified difference and, unless `figures` is False, Figure 1.

    A context, since its thread has an end. What is drawn differs in no byte from what one thread would draw.
    """

    def __init__(self, attacker: PhotoAttacker, figures: bool) -> None:
        self.attacker = attacker
        self.kinds = ("mask", "difference", "figure") if figures else ("mask", "difference")
        # One thread: matplotlib bears no two, and the attack wants the other cores.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pictures")
        self._asked: list[tuple[str, str, Future[bytes]]] = []
        self._context = ExitStack()

    def __enter__(self) -> Self:
        self._context.enter_context(without_glyph_warnings())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
        self._context.close()

    def begin(self, attacked: PhotoResult, stem: str) -> dict[str, str]:
        """Have a result's pictures drawn; returns the names of their files, which begin with `stem`, by kind."""
        names = {kind: f"{stem}-{kind}.png" for kind in self.kinds}
        drawings = {"mask": (_mask, attacked), "difference": (_difference, attacked)}
        for kind, (draw, given) in drawings.items():
            self._asked.append((kind, names[kind], self._thread.submit(draw, given)))
        if "figure" in names:
            # The classifier is asked here, where the attack is not running beside it.
            self._asked.append(
                ("figure", names["figure"], self._thread.submit(triptych_on_thread, *self._figure_1(attacked)))
            )
        return names

    def drawn(self) -> Iterator[Picture]:
        """The pictures that were asked for, in their order; waits for them."""
        while self._asked:
            kind, name, png = self._asked.pop(0)
            yield Picture(kind, name, png.result())

    def drop_figures(self) -> None:
        """Leave out the figures that are not being drawn yet, which are what takes time: nobody waits for them."""
        self._asked = [asked for asked in self._asked if not (asked[0] == "figure" and asked[2].cancel())]

    def _figure_1(self, attacked: PhotoResult) -> tuple[list[Panel], str]:
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
        return panels, caption

    def _panel(self, title: str, levels_HWC: np.ndarray, prediction: Prediction, one: Localized) -> Panel:
        names = self.attacker.classifier.class_names
        guesses = [Guess(names[index], confidence, index == one.label.index) for index, confidence in prediction.top]
        if not any(guess.right for guess in guesses):
            guesses.append(Guess(f"{one.label.name} (rank {prediction.rank})", prediction.confidence, True))
        return Panel(title, levels_HWC, guesses)


def _mask(attacked: PhotoResult) -> bytes:
    return encode_png(attacked.localized.mask_HW)


def _difference(attacked: PhotoResult) -> bytes:
    # The largest change of the whole photo becomes the largest that a picture can show.
    gain = 127.0 / max(1.0, 255.0 * attacked.linf_outside)
    shown_HWC = amplified_difference(attacked.localized.photo.levels_HWC, attacked.adversarial_HWC, gain)
    return encode_png(shown_HWC)
