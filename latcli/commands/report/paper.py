"""The paper's figures beside a report's, with a verdict on each claim; must not know the store or any format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from latcli.commands.paper_figures import (
    FIGURE_2,
    PHOTO_FIGURES,
    PHOTOS,
    REGIMES,
    Claim,
    Figure2,
    PhotoClaim,
    PhotoTables,
    Place,
    Quantity,
)
from latcli.reporting.documents import object_words

Row = dict[str, Any]


def paper(matrices: Sequence[Row], attacks: Sequence[Row], configs: Mapping[str, Mapping[str, Any]]) -> Row:
    """The part `paper` of the document: Figure 2 of each data set, Tables 1 and 2, and all verdicts.

    configs: of training runs by id, for what the models were trained with.
    """
    figures = [_figure(figure, _closest(matrices, figure.dataset), configs) for figure in FIGURE_2]
    tables = [_tables(PHOTOS, _closest_attack(attacks))]
    claims = [{"of": part["dataset"]} | claim for part in figures for claim in part["claims"]]
    claims += [{"of": "photos"} | claim for part in tables for claim in part["claims"]]
    return {"figure2": figures, "tables": tables, "claims": claims}


def verdict(claim: Claim | PhotoClaim, values: Sequence[float | None]) -> str:
    """`holds`, `fails`, or `not measured` where one of the figures that the claim is about is missing."""
    if any(value is None for value in values):
        return "not measured"
    return "holds" if claim.holds(*values) else "fails"


def _closest(matrices: Iterable[Row], dataset: str) -> Row | None:
    """The matrix nearest to the paper's: with most of its cells, then of most images, most models, the newest."""
    of_dataset = [matrix for matrix in matrices if matrix["dataset"] == dataset]

    def likeness(matrix: Row) -> tuple[int, int, int]:
        rows = [_row_of(matrix, regime) for regime in REGIMES]
        cells = sum(given in row["cells"] for row in rows if row for given in REGIMES)
        return cells, matrix["images"], sum(row["model_count"] for row in rows if row)

    return max(of_dataset, key=likeness, default=None)


def _row_of(matrix: Row | None, regime: str) -> Row | None:
    """The regime's row; of several, that of most models."""
    rows = [row for row in matrix["rows"] if row["regime"] == regime] if matrix else []
    return max(rows, key=lambda row: row["model_count"], default=None)


def _figure(figure: Figure2, matrix: Row | None, configs: Mapping[str, Mapping[str, Any]]) -> Row:
    rows = {regime: _row_of(matrix, regime) for regime in REGIMES}
    return {
        "dataset": figure.dataset,
        "source": figure.source,
        "matrix": matrix["id"] if matrix else None,
        "natural_scale": figure.natural_scale,
        "cells": [_cell(figure, place, rows) for place in figure.losses],
        "accuracies": [
            {
                "regime": place[0],
                "input": place[1],
                "paper": value,
                "ours": _ours(rows, "accuracy", place),
                "difference": _difference(_ours(rows, "accuracy", place), value),
            }
            for place, value in figure.accuracies.items()
        ],
        "claims": [_claim(figure, claim, rows) for claim in figure.claims],
        "protocol": _protocol(figure, matrix, rows, configs) if matrix else [],
    }


def _cell(figure: Figure2, place: Place, rows: Mapping[str, Row | None]) -> Row:
    scale = figure.natural_scale if place[1] == "natural" else 1
    ours, spread = (_scaled(_ours(rows, name, place), scale) for name in ("loss", "loss_spread"))
    return {
        "regime": place[0],
        "input": place[1],
        "paper": figure.losses[place],
        "ours": ours,
        "ours_spread": spread,
        "difference": _difference(ours, figure.losses[place]),
    }


def _ours(rows: Mapping[str, Row | None], name: str, place: Place) -> float | None:
    row = rows[place[0]]
    cell = row["cells"].get(place[1]) if row else None
    value: float | None = cell[name] if cell else None
    return value


def _scaled(value: float | None, scale: int) -> float | None:
    return None if value is None else scale * value


def _difference(ours: float | None, theirs: float) -> float | None:
    return None if ours is None else ours - theirs


def _claim(figure: Figure2, claim: Claim, rows: Mapping[str, Row | None]) -> Row:
    ours = [_ours(rows, quantity, place) for quantity, place in claim.asked]
    theirs = [figure.value(quantity, place) for quantity, place in claim.asked]
    return {
        "claim": claim.text,
        "paper": claim_texts(claim, theirs),
        "ours": claim_texts(claim, ours),
        "verdict": verdict(claim, ours),
    }


def claim_texts(claim: Claim, values: Sequence[float | None]) -> str:
    """The figures that a claim is about, for a reader."""
    if all(value is None for value in values):
        return "-"
    return " and ".join(_text(*asked, value) for asked, value in zip(claim.asked, values, strict=True))


def _text(quantity: Quantity, _: Place, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.2f} %" if quantity == "accuracy" else f"{value:.4g}"


def _protocol(
    figure: Figure2, matrix: Row, rows: Mapping[str, Row | None], configs: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """In what ours differs from the paper, as far as both are known, a line each."""
    told, kept = figure.protocol, [row for row in rows.values() if row]
    trained = {row["regime"]: [configs.get(run, {}) for run in row["train_runs"]] for row in kept}
    lines = ["no attack"] if matrix["epsilon"] is None else _attack_lines(matrix, told)
    attacked = {regime: found for regime, found in trained.items() if regime != "natural"}
    lines += _differing("inner attack of training", "attack_steps", "steps", attacked, told)
    lines += _differing("training", "steps", "minibatches", trained, told)
    known = [config for found in trained.values() for config in found if "architecture" in config]
    networks = {str(config["architecture"]) for config in known}
    lines += [f"network: {', '.join(sorted(networks))}"] if networks else []
    natural = [row["cells"]["natural"]["n"] for row in kept if "natural" in row["cells"]]
    lines.append(f"n: {matrix['images']:,} attacked images" + (f", {min(natural):,} natural ones" if natural else ""))
    counts = ", ".join(f"{row['regime']} {row['model_count']}" for row in kept)
    lines.append(f"training seeds: {counts}; the paper has one figure a cell, without a spread")
    return lines


def _attack_lines(matrix: Row, told: Mapping[str, float]) -> list[str]:
    lines = [_object(matrix)]
    if told.get("epsilon") not in (None, matrix["epsilon"]):
        lines.append(f"epsilon: {matrix['epsilon']:.4g}; the paper {told['epsilon']:g}")
    same = told.get("attack_steps") == matrix["steps"]
    attack = f"{matrix['attack']}, {matrix['steps']} steps" + (", as in the paper" if same else "")
    return [*lines, _against("attack", attack, None if same else told.get("attack_steps"))]


def _object(matrix: Row) -> str:
    where = object_words(matrix["mask_from"], matrix["center"])
    return f"object: {where}; the paper does not say how large its middle is"


def _against(name: str, ours: str, paper: float | None) -> str:
    return f"{name}: {ours}" + ("" if paper is None else f"; the paper {paper:,.0f}")


def _differing(
    name: str,
    option: str,
    unit: str,
    trained: Mapping[str, Sequence[Mapping[str, Any]]],
    told: Mapping[str, float],
) -> list[str]:
    values = {
        regime: {config[option] for config in configs if config.get(option) is not None}
        for regime, configs in trained.items()
    }
    known = {regime: sorted(found) for regime, found in values.items() if found}
    if not known or all(found == [told.get(option)] for found in known.values()):
        return []
    texts = [f"{regime} {', '.join(f'{value:,}' for value in found)}" for regime, found in known.items()]
    return [_against(name, f"{'; '.join(texts)} {unit}", told.get(option))]


def _closest_attack(attacks: Iterable[Row]) -> Row | None:
    """The run on backgrounds that is most like the paper's: on its classifier, of as many photos, the newest."""

    def likeness(attack: Row) -> tuple[bool, int]:
        return attack["classifier"] == PHOTOS.classifier, min(attack["summary"]["n"], PHOTOS.n)

    return max((one for one in attacks if one["region"] == "background"), key=likeness, default=None)


def _tables(tables: PhotoTables, attack: Row | None) -> Row:
    ours = photo_figures(attack["summary"]) if attack else dict.fromkeys(PHOTO_FIGURES)
    return {
        "source": tables.source,
        "run": attack["run"] if attack else None,
        "classifier": {"paper": tables.classifier, "ours": attack["classifier"] if attack else None},
        "n": {"paper": tables.n, "ours": attack["summary"]["n"] if attack else None},
        "figures": [
            {
                "figure": words,
                "paper": tables.figures[name],
                "ours": ours[name],
                "difference": _difference(ours[name], tables.figures[name]),
            }
            for name, words in PHOTO_FIGURES.items()
        ],
        "claims": [_photo_claim(tables, claim, ours) for claim in tables.claims],
        "protocol": _photo_protocol(tables, attack) if attack else [],
    }


def photo_figures(summary: Mapping[str, Any]) -> dict[str, float]:
    """The figures of `PHOTO_FIGURES`, from a summary of photos."""
    sides = ("clean", "adversarial")
    confidences = {f"{side}_confidence": summary[side]["confidence"] for side in sides}
    ranks = {f"{side}_top10": summary[side]["top10"] / summary["n"] for side in sides}
    return confidences | ranks | {"altered": summary["altered_percent"] / 100}


def _photo_claim(tables: PhotoTables, claim: PhotoClaim, ours: Mapping[str, float | None]) -> Row:
    values = [ours[name] for name in claim.asked]
    return {
        "claim": claim.text,
        "paper": " and ".join(f"{tables.figures[name]:.3g}" for name in claim.asked),
        "ours": "-" if None in values else " and ".join(f"{value:.3g}" for value in values),
        "verdict": verdict(claim, values),
    }


def _photo_protocol(tables: PhotoTables, attack: Row) -> list[str]:
    lines = [f"photos: {attack['summary']['n']}; the paper's {tables.n} are others"]
    if attack["classifier"] != tables.classifier:
        lines.append(f"classifier: {attack['classifier']}; the paper {tables.classifier}")
    lines.append(f"object from: {attack['detector']}")
    lines.append(f"attack: epsilon {255 * attack['epsilon']:.3g}/255, {attack['steps']} steps, {attack['norm']}")
    if not attack["at_model_resolution"]:
        lines.append("resolution: the photo's own; the paper's photos were resized for the classifier first")
    return lines
