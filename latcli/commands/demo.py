"""`latcli demo`: attack, train, evaluate and report on sample data of installed packages, without a network."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

from latcli.commands import attack, evaluate, report, train
from latcli.commands.photos import PACKAGE_LABELS, package_photos
from latcli.engine.training.regimes import Regime
from latcli.options import (
    AttackOptions,
    DemoOptions,
    EvalOptions,
    ReportOptions,
    TrainOptions,
)
from latcli.results import DemoResult
from latcli.session import Session

#: The three that the paper compares, and how many steps each is trained: enough to tell them apart, no more.
_REGIMES: tuple[tuple[Regime, int], ...] = (("natural", 200), ("standard", 100), ("background", 100))
_DIGITS = "mnist-5k"
#: Digits that are attacked, in how many steps; and steps of the attack on photos.
_IMAGES, _STEPS, _PHOTO_STEPS = 200, 20, 40

#: In the store.
PAGE = "demo.html"


def run(options: DemoOptions, session: Session) -> DemoResult:
    """Attack photos, train the paper's three regimes on digits for a short while, evaluate them, write the page.

    Nothing is downloaded. Raises LatcliError where the packages do not contain their photos.
    """
    session = replace(session, offline=True)
    session.note(f"attacking the backgrounds of two sample photos in {_PHOTO_STEPS} steps")

    def own(command: str, options: Any) -> Session:
        return replace(session, argv=session.command_of(command, options))

    photos = AttackOptions(photos=tuple(map(str, package_photos())), labels=PACKAGE_LABELS, steps=_PHOTO_STEPS)
    attacked = attack.run(photos, own("attack", photos))
    trainings = [TrainOptions(regime=name, dataset=_DIGITS, preset="quick", steps=steps) for name, steps in _REGIMES]
    trained = tuple(train.run(one, own("train", one)) for one in trainings)
    session.note(f"evaluating the three models: {_IMAGES} digits, {_STEPS} steps")
    models = tuple(one.run for one in trained)
    matrix = EvalOptions(models=models, dataset=_DIGITS, images=_IMAGES, steps=_STEPS)
    evaluation = evaluate.run(matrix, own("eval", matrix))
    page = session.store / PAGE
    runs = (str(attacked.run), *models, evaluation.run)
    report.run(ReportOptions(runs=runs, html=page), replace(session, json=False))
    store = "".join(f" {shlex.quote(word)}" for word in session.words("store"))
    further = (
        "latcli mask FOLDER --out masks",
        "latcli attack PHOTO.jpg --smallest-epsilon",
        "latcli attack FOLDER --labels LABELS.csv --epsilon 4/255",
        "latcli train --regime background --dataset mnist --data DIR",
        f"latcli eval --strong{store}",
        f"latcli report{store}",
        f"latcli runs show {str(attacked.run)[-4:]}{store}",
        "latcli doctor",
    )
    return DemoResult(attack=attacked, trained=trained, evaluation=evaluation, page=page, next=further)
