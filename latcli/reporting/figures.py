"""Pictures of results as PNG bytes: the paper's Figure 1 for a photo, and the amplified difference.

Legend: H height, W width, C = 3; levels are uint8.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from latcli.reporting.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RIGHT, _WRONG, INK = "#2e9e4f", "#9aa3ad", "#1f2933"

#: Longer side of a photo inside a figure, in pixels.
_PANEL_PIXELS = 640


@dataclass(frozen=True)
class Guess:
    """One bar: a class, how sure the classifier is of it (0 to 1), and whether it is the right one."""

    name: str
    confidence: float
    right: bool


@dataclass(frozen=True, eq=False)
class Panel:
    """One photo of a figure: its title, its levels_HWC and its guesses, best first."""

    title: str
    levels_HWC: np.ndarray
    guesses: Sequence[Guess]


def triptych(panels: Sequence[Panel], caption: str) -> bytes:
    """The paper's Figure 1 as PNG: photos side by side, under each the bars of its guesses, the right one in green."""
    with without_glyph_warnings():
        return triptych_on_thread(panels, caption)


def triptych_on_thread(panels: Sequence[Panel], caption: str) -> bytes:
    """`triptych` for a thread besides the main one, which must have entered `without_glyph_warnings`."""
    from matplotlib.figure import Figure

    height, width = panels[0].levels_HWC.shape[:2]
    photo_inches = 3.0 * min(1.6, max(0.5, height / width))
    bars = max(len(panel.guesses) for panel in panels)
    figure = Figure(figsize=(3.2 * len(panels), photo_inches + 0.24 * bars + 0.8), layout="constrained")
    grid = figure.add_gridspec(2, len(panels), height_ratios=(photo_inches, 0.24 * bars + 0.1))
    for column, panel in enumerate(panels):
        _draw_photo(figure.add_subplot(grid[0, column]), panel)
        _draw_guesses(figure.add_subplot(grid[1, column]), panel.guesses, bars)
    figure.supxlabel(plain(caption), fontsize=8, color=INK)
    return _saved(figure)


def bytes_of(figure: Figure, kind: str = "png") -> bytes:
    """The figure as "png" or "svg"; equal figures give equal bytes."""
    import matplotlib

    with without_glyph_warnings(), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "latcli"}):
        return _saved(figure, kind)


@contextmanager
def without_glyph_warnings() -> Iterator[None]:
    """No warning of letters that the font lacks: a name may be of any language.

    For the main thread, since the filters of warnings are the whole process's.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def _saved(figure: Figure, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    # Without versions and dates in its metadata the same result gives the same bytes.
    metadata = {"Software": None} if kind == "png" else {"Creator": None, "Date": None}
    figure.savefig(buffer, format=kind, dpi=130, metadata=metadata)
    return buffer.getvalue()


def amplified_difference(levels_HWC: np.ndarray, adversarial_HWC: np.ndarray, gain: float) -> np.ndarray:
    """What was added, times `gain`, around mid-grey: uint8 (H, W, C). Grey means unchanged."""
    table = np.clip(np.rint(128.0 + gain * np.arange(-255, 256)), 0, 255).astype(np.uint8)
    shown_HWC = np.empty_like(levels_HWC)
    for row, (before_WC, after_WC) in enumerate(zip(levels_HWC, adversarial_HWC, strict=True)):
        shown_HWC[row] = table[after_WC.astype(np.int16) - before_WC + 255]
    return shown_HWC


def _draw_photo(axes: Axes, panel: Panel) -> None:
    image = Image.fromarray(panel.levels_HWC)
    image.thumbnail((_PANEL_PIXELS, _PANEL_PIXELS))
    axes.imshow(np.asarray(image), interpolation="nearest" if max(image.size) < 200 else "antialiased")
    axes.set_title(plain(panel.title), fontsize=10, color=INK)
    axes.axis("off")


def _draw_guesses(axes: Axes, guesses: Sequence[Guess], rows: int) -> None:
    places = range(len(guesses))
    axes.barh(places, [guess.confidence for guess in guesses], color=[_RIGHT if g.right else _WRONG for g in guesses])
    for place, guess in zip(places, guesses, strict=True):
        text = f"{plain(guess.name)}  {guess.confidence:.3g}"
        axes.text(0.02, place, text, va="center", fontsize=7.5, color=INK, clip_on=True)
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_yticks([])
    axes.set_xticks([0.0, 0.5, 1.0])
    axes.tick_params(labelsize=7, colors=INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def plain(text: str) -> str:
    """Text that a figure shows as it is."""
    # A dollar sign would start a formula.
    return printable(text).replace("$", r"\$")
