"""A small store as runs of train, eval and attack leave it, without training anything: what reports are tested on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from latcli.results import AttackedPhoto, Cell, Guess, Label, Prediction, columns, to_json
from latcli.store.store import Run, Store

INPUTS = ("natural", "standard", "background")

#: Names that some format could take for something else.
WILD = [
    "<img src=x onerror=alert(1)>.jpg",
    "</script><script>alert(1)</script>",
    '"quoted" \'names\' & more',
    "a|b|c",
    "line one\nline two\r\ttab",
    "\x1b[31mred\x1b[0m\x07",
    "=cmd|' /C calc'!A0",
    "+1", "-2+3", "@SUM(1)", "\t=1",
    r"\input{/etc/passwd} $x^2$ 100% #1 ~_{}",
    "```code``` **bold** [link](javascript:alert(1)) http://example.org @someone",
    "2026\u2028-\u202e猫 é ß Ð",
    "x" * 300,
    "[2pt] *", "*", "猫",
]  # fmt: skip


def train(store: Store, regime: str, seed: int, *, accuracy: float = 0.9, **told: Any) -> Run:
    """A completed training run with its model, `cnn-REGIME@RUN`, and its last metrics."""
    config = {"dataset": "mnist", "regime": regime, "seed": seed, "steps": 1200, "attack_steps": 7, "epsilon": 0.3}
    config |= {"architecture": "paper-cnn", "preset": "standard"} | told
    dataset = store.record_dataset("mnist", fingerprint="0" * 64)
    with store.start_run("train", argv=["latcli"], config=config, seed=seed, device="cpu", dataset=dataset) as run:
        final = {"test_loss": 0.1, "test_accuracy": accuracy}
        if regime != "natural":
            final |= {"test_adversarial_loss": 0.5, "test_adversarial_accuracy": accuracy - 0.1}
        series = [("loss", step, 1 / (1 + step)) for step in range(10)]
        run.record_metrics([*series, *((name, 10, value) for name, value in final.items())])
        run.made_model(store.record_model(f"cnn-{regime}", weights_sha256=run.id[-8:], regime=regime, run=run.id))
    return run


def entry(store: Store, trained: Run) -> dict[str, Any]:
    """What an evaluation has of a model."""
    row = store.find_run(trained.id)
    known = {"name": row.id, "label": f"{row.config['regime']} {row.id[-4:]}", "regime": row.config["regime"]}
    return stranger(str(row.model)) | {"train_run": row.id, "train_seed": row.seed} | known


def stranger(name: str) -> dict[str, Any]:
    """The same of a model that latcli did not train."""
    known = dict.fromkeys(("id", "name", "label"), name)
    return known | {"source": name, "fingerprint": name, "form": "plain", "regime": None, "train_run": None}


def evaluate(
    store: Store, losses: Mapping[str, tuple[float | None, ...]], entries: list[dict[str, Any]], **told: Any
) -> Run:
    """A completed evaluation; `losses` by model id in the order of INPUTS, of which the last may lack.

    Accuracies are 1 - loss / 100.
    Intervals are 5 % of a loss and one point of an accuracy to each side. further: parts of the document. best: regimes
    that are marked as the best of each column.
    """
    settings = {"epsilon": 0.3, "steps": 100, "restarts": 1, "center": 0.25, "n": 1000, "seed": 0}
    settings |= {"attack": "pgd", "norm": "linf", "radius": None} | told
    further, best = settings.pop("further", {}), settings.pop("best", ())
    dataset = store.record_dataset(settings.pop("dataset", "mnist"), fingerprint="0" * 64)
    config: dict[str, object] = {"entries": entries, "strong": None, **settings}
    with store.start_run("eval", argv=[], config=config, seed=0, device="cpu", dataset=dataset) as run:
        cells = [
            replace(
                cell(one, given, loss, settings), best_accuracy=one["regime"] in best, best_loss=one["regime"] in best
            )
            for one in entries
            for given, loss in zip(INPUTS, losses[one["id"]], strict=False)
        ]
        run.insert("cells", cells)
        document: dict[str, Any] = {"run": run.id, "dir": run.folder, "dataset": "mnist", "n": settings["n"]}
        document |= {"attack": "pgd-100", "settings": settings, "models": entries, "cells": cells}
        run.write_artifact("matrix.json", json.dumps(to_json(document | further)).encode(), "matrix")
    return run


def cell(entry: Mapping[str, Any], given: str, loss: float | None, settings: Mapping[str, Any]) -> Cell:
    names = ("epsilon", "steps", "restarts", "center", "attack", "norm", "radius")
    attack: dict[str, Any] = {name: settings[name] for name in names} | {"mask_from": "center"}
    if given == "natural":
        attack = dict.fromkeys(attack)
    accuracy = 1 - (loss or 0.0) / 100
    return Cell(
        **{name: entry.get(name) for name in ("label", "regime", "train_seed")},
        model=entry["name"], model_id=entry["id"], input=given,
        loss=loss, loss_low=None if loss is None else 0.95 * loss, loss_high=None if loss is None else 1.05 * loss,
        accuracy=accuracy, accuracy_low=accuracy - 0.01, accuracy_high=accuracy + 0.01,
        n=10_000 if given == "natural" else settings["n"], seed=settings["seed"], seconds=1.0, **attack,
    )  # fmt: skip


def photo(position: int, name: str, label: str, guess: str, **changed: Any) -> dict[str, Any]:
    """A row of the table `attacks`: right before, wrong after."""
    top = (Guess(7, guess, 0.99), Guess(8, label, 0.001))
    files = {kind: f"{position}-{kind}.png" for kind in ("adversarial", "mask", "difference", "figure")}
    attacked = AttackedPhoto(
        image=name, sha256=sha256(name.encode()).hexdigest(), height=64, width=96, label=Label(8, label, "given"),
        clean=Prediction(label, 8, 0.9, 0.9, 1, 0.1, (Guess(8, label, 0.9),)),
        adversarial=Prediction(guess, 7, 0.99, 0.001, 20, 6.9, top),
        was_right=True, fooled=True, detector="cam", localized_by="cam", object_percent=50.0, region="background",
        epsilon=8 / 255, background_percent=50.0, visible_background_percent=50.0, altered_percent=40.0,
        linf_inside=0.0, linf_outside=8 / 255, l2=1.0, files=files,
    )  # fmt: skip
    protocol = {"classifier": "efficientnet_lite0", "attack": "pgd", "norm": "linf", "steps": 40, "restarts": 1}
    return columns(attacked) | protocol | {"objective": "ce"} | changed


def attack(store: Store, names: list[tuple[str, str, str]], *, seed: int = 0, **told: Any) -> Run:
    """A completed attack on photos, given as name, right class and the guess afterwards, with their files."""
    config = {"classifier": "efficientnet_lite0", "detector": "cam", "region": "background"} | told
    model = store.record_model("efficientnet_lite0")
    with store.start_run("attack", argv=[], config=config, seed=seed, device="cpu", model=model) as run:
        for position, (name, label, guess) in enumerate(names):
            for kind in ("adversarial", "mask", "difference", "figure"):
                run.write_artifact(f"{position}-{kind}.png", f"{position} {kind}".encode(), kind)
            run.insert("attacks", [photo(position, name, label, guess, region=config["region"])])
    return run


def crash(store: Store) -> str:
    """The id of a run that ended by an error."""
    with (
        suppress(ZeroDivisionError),
        store.start_run("train", argv=[], config={"regime": "natural"}, seed=0, device="cpu") as run,
    ):
        raise ZeroDivisionError("nothing to divide by")
    return run.id


def further(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Transfer, a curve, reliance and a warning, as the document of an evaluation has them."""
    ids = [one["id"] for one in entries]
    points = [{"value": value, "n": 100, "attacked": 90, "accuracy": 0.9 - value} for value in (0.0, 0.1, 0.3)]
    means = {name: {"n": 50, "accuracy": 0.8, "confidence": 0.7} for name in VARIANTS}
    gap = {"n": 50, "mixed_same": 0.8, "mixed_rand": 0.75, "value": 0.05, "standard_error": 0.01}
    group = {"n": 50, "low": 0.2, "high": 0.7, "means": means, "gap": gap}
    row = {"model": ids[0], "donor_seeds": 3, "overall": group, "by_share": [group], "without_same": 0, "left_out": []}
    return {
        "transfer": [
            {"input": "standard", "source": source, "target": target, "n": 100, "loss": 1.5, "accuracy": 0.5}
            for source in (None, *ids)
            for target in ids
        ],
        "curves": [{"model": one, "input": "standard", "axis": "epsilon", "points": points} for one in ids],
        "reliance": [row],
        "warnings": [{"model": ids[0], "label": "natural", "input": None, "check": "random-model", "value": 1.0,
                      "text": "differs"}],
    }  # fmt: skip


VARIANTS = ("original", "only_fg", "only_bg_b", "only_bg_t", "mixed_same", "mixed_rand")


def whole(folder: Path) -> dict[str, str]:
    """A store with something of everything, wild names among it; the ids of its runs by what they are."""
    with Store.open(folder) as store:
        natural, standard = train(store, "natural", 0), train(store, "standard", 0)
        backgrounds = [train(store, "background", seed, accuracy=0.9 + seed / 100) for seed in (0, 1)]
        entries = [entry(store, run) for run in (natural, standard, *backgrounds)]
        losses = [(0.02, 20.0, 15.0), (0.06, 0.4, 0.25), (0.03, 1.2, 0.2), (0.05, 1.4, 0.4)]
        by_id = {one["id"]: row for one, row in zip(entries, losses, strict=True)}
        evaluation = evaluate(store, by_id, entries, further=further(entries))
        photos = attack(store, [(f"photos/{name}", name, name) for name in WILD])
        failed = crash(store)
    made = {"natural": natural, "standard": standard, "background": backgrounds[0], "background 1": backgrounds[1]}
    made |= {"evaluation": evaluation, "attack": photos}
    return {name: one.id for name, one in made.items()} | {"failed": failed}
