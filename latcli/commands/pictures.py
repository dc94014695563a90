"""The pictures of attacked photos, drawn and kept on a thread while the next photos are attacked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from latcli.engine.images import encode_png
from latcli.engine.photos import Located, PhotoAttacker, PhotoResult
from latcli.reporting.figures import Guess, Panel, amplified_difference, triptych_on_thread, without_glyph_warnings
from latcli.results import Prediction

Keep = Callable[[str, bytes, str, str], object]


@contextmanager
def drawing(attacker: PhotoAttacker, keep: Keep, figures: bool) -> Iterator[Pictures]:
    """Pictures of results, all of them kept when the block ends.

    `keep` is given each one's name, bytes, kind (mask, difference, figure), and the sha256 of the photo that it shows.
    Where an error ends it, what is quickly drawn is kept, and nobody waits for a figure that is not begun.
    """
    # One thread: matplotlib bears no two, and the attack wants the other cores.
    with without_glyph_warnings(), ThreadPoolExecutor(1, thread_name_prefix="pictures") as thread:
        pictures = Pictures(attacker, keep, figures, thread)
        try:
            yield pictures
            pictures.finish()
        except BaseException:
            pictures.drop_figures()
            with suppress(Exception):  # the first error is the one to report
                pictures.finish()
            raise


class Pictures:
    """Draws and keeps what shows a result: the mask, the amplified difference and, if `figures`, Figure 1."""

    def __init__(self, attacker: PhotoAttacker, keep: Keep, figures: bool, thread: ThreadPoolExecutor) -> None:
        """Use `drawing`."""
        self.attacker, self._keep_file, self._figures, self._thread = attacker, keep, figures, thread
        self._asked: list[tuple[PhotoResult, dict[str, str]]] = []
        self._begun: list[tuple[str, Future[None]]] = []
        self._masks: set[str] = set()

    def ask(self, attacked: PhotoResult, stem: str, suffix: str = "") -> dict[str, str]:
        """Ask for a result's pictures; returns the names of their files by kind. The mask is one for each stem."""
        names = {"mask": f"{stem}-mask.png", "difference": f"{stem}{suffix}-difference.png"}
        if self._figures:
            names["figure"] = f"{stem}{suffix}-figure.png"
        self._asked.append((attacked, {k: v for k, v in names.items() if k != "mask" or stem not in self._masks}))
        self._masks.add(stem)
        return names

    def begin(self) -> None:
        """Have the thread draw what was asked for, once it has drawn what was asked for before."""
        self._wait()
        asked, self._asked = self._asked, []
        for attacked, names in asked:
            draw: dict[str, tuple[Callable[..., bytes], tuple[Any, ...]]] = {
                "difference": (_difference, (attacked,)),
                "mask": (encode_png, (attacked.located.mask_HW,)),
            }
            if "figure" in names:  # the classifier is asked here, where the attack is not running beside it
                draw["figure"] = triptych_on_thread, self._figure_1(attacked)
            for kind, name in names.items():
                image = attacked.located.photo.sha256
                self._begun.append((kind, self._thread.submit(self._keep, kind, name, image, *draw[kind])))

    def finish(self) -> None:
        """Wait until all that was asked for is drawn and kept; raises what the drawing raised."""
        self.begin()
        self._wait()

    def drop_figures(self) -> None:
        """Leave out the figures that are not being drawn yet, which are what takes time."""
        for _, names in self._asked:
            names.pop("figure", None)
        self._begun = [(kind, future) for kind, future in self._begun if not (kind == "figure" and future.cancel())]

    def _wait(self) -> None:
        while self._begun:
            self._begun.pop(0)[1].result()

    def _keep(self, kind: str, name: str, image: str, draw: Callable[..., bytes], given: tuple[Any, ...]) -> None:
        self._keep_file(name, draw(*given), kind, image)

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
    return encode_png(amplified_difference(attacked.located.photo.levels_HWC, attacked.adversarial_HWC, gain))


def overlay(located: Located) -> bytes:
    """PNG of a photo with its background darkened, and the edge of the object drawn on it in magenta."""
    import cv2

    object_HW1 = located.mask_HW[:, :, None] / 255.0
    grey_HW1 = located.photo.levels_HWC.mean(axis=2, keepdims=True)
    shown_HWC = np.rint(object_HW1 * located.photo.levels_HWC + (1.0 - object_HW1) * 0.35 * grey_HW1).astype(np.uint8)
    outlines, _ = cv2.findContours((located.mask_HW >= 128).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(max(located.photo.size) / 300))
    return encode_png(cv2.drawContours(np.ascontiguousarray(shown_HWC), outlines, -1, (255, 0, 200), thickness))
