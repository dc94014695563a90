"""Documents as the commands give them, made by hand: what tables, formats and the page are tested on."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from report_store import VARIANTS, WILD

from latcli.reporting.figures import amplified_difference
from latcli.results import (
    AccuracyCurve,
    AttackedPhoto,
    AttackResult,
    BackgroundGap,
    Cell,
    Comparison,
    CurvePoint,
    EvalResult,
    EvaluatedModel,
    EvalWarning,
    Failure,
    Guess,
    Label,
    PlannedPhoto,
    Prediction,
    RelianceGroup,
    RelianceRow,
    TransferCell,
    VariantMean,
    columns,
    photo_summary,
    to_json,
)  # fmt: skip

RUN = "20261122-141503-attack-7f3a"

#: Losses of the paper's Figure 2 for MNIST, and accuracies: natural, natural on the attacked images, and so on.
FIGURE_2 = {
    "natural": ((0.0414, 0.9919), (0.05, 0.985), (68.19, 0.0), (61.80, 0.0008)),
    "standard": ((0.0579, 0.983), (0.06, 0.98), (0.27, 0.92), (0.21, 0.93)),
    "background": ((0.0396, 0.99), (0.04, 0.99), (0.55, 0.81), (0.23, 0.93)),
}
INPUTS = ("natural", "natural-attacked", "standard", "background")


def prediction(name: str, p_guess: float, p_right: float, rank: int) -> Prediction:
    return Prediction(name, 7, p_guess, p_right, rank, 1.0, (Guess(7, name, p_guess), Guess(9, "other", p_guess / 9)))


def located(name: str, label: str, clean: Prediction, source: str) -> dict[str, Any]:
    return {
        "image": name, "sha256": "0" * 64, "height": 300, "width": 400, "label": Label(8, label, source),
        "clean": clean, "was_right": clean.rank == 1, "detector": "saliency", "localized_by": "saliency",
        "object_percent": 42.75, "evidence_inside": 0.834, "evidence_lift": 1.9,
        "boxes": ((1.0, 2.0, 3.0, 4.0, 0.5, label),), "background_percent": 57.25, "visible_background_percent": 40.0,
    }  # fmt: skip


def photo(
    name: str = "photos/hen.jpg",
    label: str = "hen",
    clean: tuple[str, float, float, int] = ("hen", 0.931, 0.931, 1),
    after: tuple[str, float, float, int] = ("cock", 0.998, 0.000169, 11),
    source: str = "given",
    **more: Any,
) -> AttackedPhoto:
    """One attacked photo; predictions are name, p(guess), p(right class) and rank."""
    before, adversarial = prediction(*clean), prediction(*after)
    known: dict[str, Any] = {
        "region": "background", "epsilon": 8 / 255, "fooled": before.rank == 1 and adversarial.rank > 1,
        "altered_percent": 49.14, "linf_inside": 0.0, "linf_outside": 8 / 255, "l2": 6.9, "psnr": 38.2, "ssim": 0.95,
        "files": {kind: f"/store/{RUN}/hen-{kind}.png" for kind in ("adversarial", "mask", "difference", "figure")},
    }  # fmt: skip
    return AttackedPhoto(**located(name, label, before, source) | {"adversarial": adversarial} | known | more)


def attack(*photos: AttackedPhoto, **more: Any) -> dict[str, Any]:
    """What `attack --json` gives."""
    known: dict[str, Any] = {
        "classifier": "efficientnet_lite0", "region": "background", "epsilon": 8 / 255, "attack": "pgd",
        "norm": "linf", "radius": None, "steps": 40, "restarts": 1, "objective": "untargeted", "detector": "auto",
        "run": RUN, "dir": Path("/store") / RUN, "images": photos,
        "summary": photo_summary([columns(one) for one in photos]),
    }  # fmt: skip
    document: dict[str, Any] = to_json(AttackResult(**known | more))
    return document


def plan(*photos: tuple[str, str]) -> dict[str, Any]:
    """What `attack --dry-run --json` gives, for photos by name and class."""
    clean = prediction("hen", 0.9, 0.9, 1)
    planned = tuple(PlannedPhoto(**located(name, label, clean, "given"), seconds=12.3) for name, label in photos)
    return attack(run=None, dir=None, dry_run=True, planned=planned)


def failures(*errors: tuple[str, bool]) -> tuple[Failure, ...]:
    return tuple(Failure("a.jpg", error, "a hint", 1, skipped) for error, skipped in errors)


def evaluation(rows: dict[str, Any] | None = None, inputs: tuple[str, ...] = INPUTS, **more: Any) -> dict[str, Any]:
    """What `eval --json` gives, with everything that can be measured beside the matrix."""
    rows = rows or FIGURE_2
    models = tuple(
        EvaluatedModel("x", label, f"{label} 00aa", f"cnn-{label}", "0" * 64, "fp32", regime=label) for label in rows
    )
    cells = tuple(
        _cell(model, given, loss, accuracy, len(rows))
        for model, values in zip(models, rows.values(), strict=True)
        for given, (loss, accuracy) in zip(inputs, values, strict=True)
    )
    first, last = models[0].id, models[-1].id
    points = tuple(CurvePoint(value, 100, 0.9 - value, 90) for value in (0.0, 8 / 255, 0.3))
    means = {name: VariantMean(50, 0.8, 0.7) for name in VARIANTS} | {"mixed_same": VariantMean(0, None, None)}
    group = RelianceGroup(50, 0.2, 0.7, means, BackgroundGap(50, 0.8, 0.75, 0.05, 0.0123))
    known: dict[str, Any] = {
        "run": "20261122-150000-eval-1234", "dir": Path("/store/eval"), "dataset": "mnist", "n": 1000,
        "attack": "pgd-100, 1 random start", "models": models, "cells": cells,
        "settings": {"epsilon": 0.3, "seed": 4, "mask_from": "center", "center": 0.25, "strong": None},
        "comparisons": (Comparison("background", first, last, 1000, 3, 931, 1e-9),) if first != last else (),
        "transfer": tuple(TransferCell("standard", source, one, 100, 1.5, 0.5) for source in (None, first)
                          for one in (first, last)),
        "curves": tuple(AccuracyCurve(model.id, "standard", "epsilon", points) for model in models),
        "reliance": (RelianceRow(first, 3, group, (group,), 2, ()),),
        "warnings": (EvalWarning(first, "natural 00aa", "standard", "vanishing-gradients", 1.0, "gradients are gone"),),
    }  # fmt: skip
    document: dict[str, Any] = to_json(EvalResult(**known | more))
    return document


def _cell(model: EvaluatedModel, given: str, loss: float | None, accuracy: float, count: int) -> Cell:
    attacked = not given.startswith("natural")
    known = {"loss_low": None if loss is None else 0.9 * loss, "loss_high": None if loss is None else 1.1 * loss}
    known |= {"accuracy_low": max(0.0, accuracy - 0.02), "accuracy_high": min(1.0, accuracy + 0.01)}
    known |= {"epsilon": 0.3 if attacked else None, "steps": 100 if attacked else None}
    return Cell(
        **known, model=model.name, label=model.label, model_id=model.id, regime=model.regime, train_seed=None,
        input=given, loss=loss, accuracy=accuracy, n=10_000 if given == "natural" else 1000, restarts=1,
        attack="pgd", mask_from="center", center=0.25, seed=4, seconds=1.0,
        best_accuracy=count > 1 and model.regime == "background" and attacked,
        best_loss=count > 1 and model.regime != "natural" and given == "background",
    )  # fmt: skip


def matrix(rows: dict[str, Any] | None = None, inputs: tuple[str, ...] = INPUTS, **more: Any) -> dict[str, Any]:
    """A matrix of a report's document; losses on natural inputs are printed times 1,000."""

    def cell(given: str, loss: float | None, accuracy: float, models: int) -> dict[str, Any]:
        several = models > 1
        return {
            "loss": loss, "loss_spread": 0.002 if several else None, "accuracy": accuracy,
            "accuracy_spread": 0.0012 if several else None, "n": 10_000 if given == "natural" else 1000,
            "models": models, "spread_over": "models" if several else None, "diverged": 0,
            "best_loss": several and given == "natural", "best_accuracy": False,
        }  # fmt: skip

    found = [
        {"label": label, "regime": label, "model_count": place, "train_runs": [f"2-train-{place - 1}"]}
        | {"cells": {given: cell(given, *values, place) for given, values in zip(inputs, known, strict=True)}}
        for place, (label, known) in enumerate((rows or FIGURE_2).items(), start=1)
    ]
    return {
        "id": "matrix-1", "dataset": "mnist", "epsilon": 0.3, "attack": "pgd", "norm": "linf", "radius": None,
        "steps": 100, "restarts": 1, "mask_from": "center", "center": 0.25, "images": 1000, "strong": None,
        "natural_scale": 1000, "inputs": list(inputs), "runs": ["20261122-150000-eval-1234"], "seeds": [0],
        "rows": found, "warnings": ["natural: gradients are gone"], "notes": [],
    } | more  # fmt: skip


def paper() -> list[dict[str, Any]]:
    claim = {"claim": "standard training costs loss", "paper": "0.0579 and 0.0414", "ours": "0.06 and 0.04",
             "of": "mnist", "seeds_holding": 1, "seeds": 2}  # fmt: skip
    figures = [
        ("loss", "natural", "natural", 0.0414, 0.1016), ("loss", "natural", "background", 61.8, 11.9),
        ("accuracy", "natural", "natural", 0.99, 0.976),
    ]  # fmt: skip
    names = ("figure", "regime", "input", "paper", "ours")
    mnist = {"of": "mnist", "source": "Figure 2, MNIST", "ours": "matrix-1", "natural_scale": 1000}
    mnist |= {
        "figures": [dict(zip(names, one, strict=True)) | {"ours_spread": None} for one in figures],
        "claims": [claim | {"verdict": "holds"}, claim | {"verdict": "fails", "ours": "0.02 and 0.04"}],
        "protocol": ["attack: pgd, 100 steps, as in the paper"],
    }
    mean = {"figure": "p(right class), clean", "regime": None, "input": None, "paper": 0.71, "ours": 0.647}
    photos = {"of": "photos", "source": "Tables 1 and 2", "ours": RUN, "natural_scale": 1, "claims": []}
    photos |= {"figures": [mean | {"ours_spread": 0.01}], "protocol": ["photos: 9"]}
    return [mnist, mnist | {"ours": None, "of": "cifar10"}, photos]


def trained(place: int = 0, **more: Any) -> dict[str, Any]:
    series = {"loss": [[0, 2.0], [5, 0.05], [9, None]], "clean_accuracy": [[0, 0.1], [9, 0.9]], "rate": [[0, 1.0]]}
    final = {"loss": 0.1, "accuracy": 0.95, "adversarial_loss": None, "adversarial_accuracy": 0.5}
    return {
        "run": f"20261122-14000{place}-train-00a{place}", "regime": "natural", "dataset": "mnist", "seed": place,
        "architecture": "paper-cnn", "steps": 10, "epsilon": 0.3, "status": "completed", "final": final,
        "series": series,
    } | more  # fmt: skip


def run_row(**more: Any) -> dict[str, Any]:
    """A run as it is listed."""
    return {
        "run": RUN, "dir": f"/store/{RUN}", "name": None, "tags": [], "command": "attack", "status": "completed",
        "started": "2026-11-22T14:15:03.000Z", "finished": "2026-11-22T14:15:33.000Z", "seconds": 30.2, "exit_code": 0,
        "error": None, "seed": 3, "device": "cpu", "dataset": None, "regime": "background", "epsilon": 8 / 255,
        "model": "efficientnet_lite0@ac73d8ca", "parent": None, "result": "fooled 1 of 2",
        "argv": ["/bin/latcli", "attack", "my photos"], "git_sha": None, "config_hash": "e94bf52429b3d8dd",
        "config": {"classifier": "efficientnet_lite0", "detector": "auto", "region": "background", "epsilon": 8 / 255,
                   "attack": "pgd", "norm": "linf", "steps": 40, "restarts": 1},
    } | more  # fmt: skip


def report(*photos: AttackedPhoto, **more: Any) -> dict[str, Any]:
    """What `report --paper --json` gives, with something of everything."""
    photos = photos or (photo(), photo("photos/kite.jpg", "kite", ("hip", 0.5, 0.1, 3), ("hip", 0.9, 0.01, 30)))
    return {
        "store": "/store", "created": "2026-11-22T15:00:00.000Z", "latcli": "0.1.0",
        "selection": {"runs": [], "since": None, "dataset": None, "status": None, "best": False},
        "matrices": [matrix()], "attacks": [attack(*photos)], "further_attacks": 0, "training": [trained()], "best": [],
        "evaluations": [evaluation()],
        "runs": [run_row()], "paper": paper(),
        "left_out": [{"run": "20261122-130000-train-dead", "command": "train", "status": "crashed", "why": "crashed"}],
        "faults": [{"run": RUN, "name": "0-mask.png", "fault": "missing", "detail": "it is gone"}],
    } | more  # fmt: skip


def nothing(document: dict[str, Any], **kept: Any) -> dict[str, Any]:
    """A report's document without anything but what is kept."""
    return {name: [] if isinstance(value, list) else value for name, value in document.items()} | {"paper": None} | kept


def wild_report() -> dict[str, Any]:
    """A report in which everything that can have a name has a wild one."""
    photos = tuple(
        photo(f"photos/{name}", name, (name, 0.9, 0.9, 1), (name, 0.9, 1e-9, 9), "prediction", notes=(name,))
        for name in WILD
    )
    name = WILD[10] + WILD[11]
    rows = {f"{wild}": values for wild in WILD for values in [FIGURE_2["natural"]]}
    return report(*photos) | {
        "store": name,
        "matrices": [matrix(rows, dataset=name, notes=WILD)],
        "training": [trained(place, regime=wild, dataset=wild) for place, wild in enumerate(WILD)],
        "left_out": [{"run": wild, "command": "train", "status": "crashed", "why": wild} for wild in WILD],
        "faults": [{"run": wild, "name": wild, "fault": "missing", "detail": wild} for wild in WILD],
    }


def png(levels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG")
    return buffer.getvalue()


def levels(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A photo, the same changed by up to 8 levels outside a box, and the box as a mask."""
    drawn = np.random.default_rng(seed)
    across = np.linspace(0, 255, 96, dtype=np.float32)
    photo_HWC = np.clip(across[None, :, None] + drawn.normal(0, 20, (64, 96, 3)), 0, 255).astype(np.uint8)
    mask_HW = np.zeros((64, 96), np.uint8)
    mask_HW[20:50, 30:70] = 255
    change_HWC = drawn.integers(-8, 9, photo_HWC.shape) * (mask_HW == 0)[..., None]
    change_HWC[0, 0] = -8 if photo_HWC[0, 0].min() >= 8 else 8
    return photo_HWC, np.clip(photo_HWC + change_HWC, 0, 255).astype(np.uint8), mask_HW


def attack_files(seed: int = 0) -> dict[str, bytes]:
    """What `latcli attack` leaves of a photo."""
    before_HWC, after_HWC, mask_HW = levels(seed)
    difference_HWC = amplified_difference(before_HWC, after_HWC, 127.0 / 8)
    return {"adversarial": png(after_HWC), "difference": png(difference_HWC), "mask": png(mask_HW)}
