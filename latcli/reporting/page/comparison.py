"""The paper's figures beside ours, with a verdict for each claim; must not know what the paper says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latcli.reporting.page.formats import NONE, number, signed, spread

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
    inputs: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Pair | None]]]
    claims: Sequence[Claim]
    protocol: Sequence[str]


def comparisons(paper: Mapping[str, Any] | None) -> list[Comparison]:
    """What stands under `paper` in the report's document: Figure 2 of each data set, the photo tables, other claims."""
    if not paper:
        return []
    found = [_figure_2(figure) for figure in paper.get("figure2") or ()]
    found += [_claims_only(table, "Tables 1 and 2: photos") for table in paper.get("tables") or ()]
    if paper.get("claims"):
        found.append(_claims_only(paper, "Other claims"))
    return [one for one in found if one.rows or one.claims]


def _figure_2(figure: Mapping[str, Any]) -> Comparison:
    cells = {(cell["regime"], cell["input"]): cell for cell in figure["cells"]}
    inputs = list(dict.fromkeys(name for _, name in cells))
    regimes = list(dict.fromkeys(regime for regime, _ in cells))
    rows = [(regime, [_pair(cells.get((regime, name))) for name in inputs]) for regime in regimes]
    title = f"Figure 2, {figure['dataset']}: mean cross entropy"
    return Comparison(title, inputs, rows, _claims(figure), list(figure.get("protocol") or ()))


def _pair(cell: Mapping[str, Any] | None) -> Pair | None:
    if cell is None:
        return None
    return Pair(
        number(cell["paper"]), number(cell.get("ours")), spread(cell.get("ours_spread")), signed(cell.get("difference"))
    )


def _claims_only(of: Mapping[str, Any], title: str) -> Comparison:
    return Comparison(str(of.get("title") or title), (), (), _claims(of), list(of.get("protocol") or ()))


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
