"""The paper's figures beside ours, with a verdict for each claim; must not know what the paper says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latcli.reporting.page.formats import NONE, number, percent, points, signed, spread

#: A sign beside each verdict, for those to whom its colour says nothing.
_SIGNS = {"holds": "✓", "fails": "✗"}


@dataclass(frozen=True)
class Claim:
    """One claim: what the paper has, what we have, and `holds`, `fails` or `not measured`."""

    claim: str
    paper: str
    ours: str
    verdict: str
    sign: str
    kind: str


@dataclass(frozen=True)
class Pair:
    """One cell of the paper's figure beside ours, as text."""

    paper: str
    ours: str
    spread: str
    difference: str


@dataclass(frozen=True)
class Comparison:
    """A table or figure of the paper beside ours."""

    title: str
    corner: str
    inputs: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Pair | None]]]
    claims: Sequence[Claim]
    protocol: Sequence[str]


def comparisons(paper: Mapping[str, Any] | None) -> list[Comparison]:
    """What stands under `paper` in the report's document: Figure 2 of each data set, then the photo tables."""
    if not paper:
        return []
    found = [_figure_2(figure) for figure in paper.get("figure2") or ()]
    found += [_photo_tables(table) for table in paper.get("tables") or ()]
    return [one for one in found if one.rows or one.claims]


def _figure_2(figure: Mapping[str, Any]) -> Comparison:
    cells = {(cell["regime"], cell["input"]): cell for cell in figure["cells"]}
    inputs = list(dict.fromkeys(name for _, name in cells))
    regimes = list(dict.fromkeys(regime for regime, _ in cells))
    rows = [(regime, [_pair(cells.get((regime, name))) for name in inputs]) for regime in regimes]
    title = f"{figure.get('source') or 'Figure 2, ' + str(figure['dataset'])}: mean cross entropy"
    return Comparison(title, "model", inputs, rows, _claims(figure), list(figure.get("protocol") or ()))


def _photo_tables(table: Mapping[str, Any]) -> Comparison:
    """Shares of 1; where ours are of another classifier, the title says so."""
    said = table.get("classifier") or {}
    ours = f"; paper: {said['paper']}, ours: {said.get('ours') or 'not measured'}" if said.get("paper") else ""
    rows = [(figure["figure"], [_share_pair(figure)]) for figure in table.get("figures") or ()]
    title = f"{table.get('source') or 'Tables 1 and 2: photos'}{ours}"
    return Comparison(title, "figure", ["photos"], rows, _claims(table), list(table.get("protocol") or ()))


def _share_pair(figure: Mapping[str, Any]) -> Pair:
    difference = figure.get("difference")
    return Pair(_share(figure["paper"]), _share(figure.get("ours")), "", points(difference))


def _share(value: float | None) -> str:
    """In per cent, with as many digits as a very small share needs to be seen."""
    return f"{100 * value:.2g} %" if value is not None and 0 < value < 0.0005 else percent(value, 1)


def _pair(cell: Mapping[str, Any] | None) -> Pair | None:
    if cell is None:
        return None
    return Pair(
        number(cell["paper"]), number(cell.get("ours")), spread(cell.get("ours_spread")), signed(cell.get("difference"))
    )


def _claims(of: Mapping[str, Any]) -> list[Claim]:
    return [
        Claim(
            one["claim"],
            _said(one.get("paper")),
            _said(one.get("ours")),
            one["verdict"],
            _SIGNS.get(one["verdict"], NONE),
            one["verdict"] if one["verdict"] in _SIGNS else "open",
        )
        for one in of.get("claims") or ()
    ]


def _said(value: Any) -> str:
    return NONE if value is None else number(value) if isinstance(value, float) else str(value)
