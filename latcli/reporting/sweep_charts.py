"""A figure against one setting as PNG: points with their spread, and the paper's figure as a line; must not know runs.

Takes one of the `sweeps` of `reproduce --json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from latcli.reporting.figures import INK, plain, png_of

_OURS, _THEIRS = "#3b6ea8", "#c8553d"


def sweep(document: Mapping[str, Any]) -> bytes:
    """Panels side by side; `panels` have `title`, `lines` of `[x, mean, spread]`, `paper`, a number or None, and
    `decades`, whether figures are drawn by their logarithms."""
    panels = document["panels"]
    figure = Figure(figsize=(3.8 * len(panels), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for position, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), position + 1)
        _draw(axes, panel)
        axes.set_xlabel(plain(document["across"]), fontsize=8, color=INK)
    figure.suptitle(plain(document["title"]), fontsize=10, color=INK)
    return png_of(figure)


def _draw(axes: Axes, panel: Mapping[str, Any]) -> None:
    for line in panel["lines"]:
        points = [(x, mean, spread or 0.0) for x, mean, spread in line["points"] if mean is not None]
        if points:
            places, heights, spreads = zip(*points, strict=True)
            axes.errorbar(
                places, heights, spreads, label=plain(line["label"]), color=_OURS, marker="o", markersize=3, capsize=2
            )
    if panel["paper"] is not None:
        axes.axhline(panel["paper"], color=_THEIRS, linewidth=1, linestyle="--", label="paper")
    if panel["decades"]:
        axes.set_yscale("log", nonpositive="clip")
        axes.set_ylim(top=1.5)
    else:
        axes.set_ylim(-0.02, 1.02)
    axes.set_title(plain(panel["title"]), fontsize=9, color=INK)
    axes.tick_params(labelsize=7, colors=INK)
    axes.grid(linewidth=0.4, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False)
