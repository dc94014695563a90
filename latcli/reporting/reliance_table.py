"""Background reliance of `eval --json` as tables for a terminal; must not know engine or commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from latcli.reporting.blocks import blocks, unique_labels
from latcli.reporting.text import printable

#: The variants by their names in the Backgrounds Challenge.
VARIANT_NAMES = {
    "original": "Original",
    "only_fg": "Only-FG",
    "only_bg_b": "Only-BG-B",
    "only_bg_t": "Only-BG-T",
    "mixed_same": "Mixed-Same",
    "mixed_rand": "Mixed-Rand",
}


def reliance(document: Mapping[str, Any]) -> list[RenderableType]:
    """A table for each model: variants down, all photos and groups of them across; nothing where not asked for."""
    labels = unique_labels((model["id"], model["label"]) for model in document["models"])
    parts: list[RenderableType] = []
    for row in document["reliance"]:
        groups = {"all": row["overall"]} | {str(index): group for index, group in enumerate(row["by_share"])}
        headings = {key: "all\nphotos" if key == "all" else _share(group) for key, group in groups.items()}
        rows = {
            name: {key: accuracy_text(group["means"][variant]) for key, group in groups.items()}
            for variant, name in VARIANT_NAMES.items()
        }
        rows["background gap"] = {key: gap_text(group["gap"]) for key, group in groups.items()}
        parts.append(Text(f"Background reliance of {printable(labels[row['model']])}", "bold"))
        parts += blocks("accuracy in % (n)", rows, headings)
        parts.append(Text("\n".join(_remarks(row)) + "\n"))
    return parts


def _share(group: Mapping[str, Any]) -> str:
    return f"background\n{100 * group['low']:.0f}-{100 * group['high']:.0f} %"


def accuracy_text(mean: Mapping[str, Any]) -> str:
    """A mean in per cent, and of how many photos."""
    return "-" if mean["accuracy"] is None else f"{100 * mean['accuracy']:.2f} ({mean['n']:,})"


def gap_text(gap: Mapping[str, Any]) -> str:
    """The gap in points, and its standard error."""
    if gap["value"] is None:
        return "-"
    error = "" if gap["standard_error"] is None else f" +-{100 * gap['standard_error']:.2f}"
    return f"{100 * gap['value']:.2f}{error}"


def _remarks(row: Mapping[str, Any]) -> list[str]:
    seeds = f"{row['donor_seeds']} donor seed{'' if row['donor_seeds'] == 1 else 's'}"
    lines = [f"gap: Mixed-Same - Mixed-Rand +- its standard error; means over {seeds}"]
    if row["without_same"]:
        lines.append(f"{row['without_same']:,} photos are alone in their class: no Mixed-Same, no part in the gap")
    if row["left_out"]:
        lines.append(f"{len(row['left_out']):,} photos are left out: no object, or no background beside it")
    return lines
