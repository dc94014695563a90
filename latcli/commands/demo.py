"""`latcli demo`: the whole story on what installed packages carry, offline; must not know how it is shown."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from latcli.commands.attack import run as run_attack
from latcli.commands.evaluate import run as run_eval
from latcli.commands.package_photos import PACKAGE_LABELS, package_photos
from latcli.commands.report import run as run_report
from latcli.commands.train.command import run as run_train
from latcli.engine.training.regimes import Regime
from latcli.errors import ExitCode
from latcli.options import AttackOptions, DemoOptions, EvalOptions, ReportOptions, TrainOptions
from latcli.results import AttackResult, EvalResult, TrainResult, to_json
from latcli.session import Session

#: The three that the paper compares, and how many steps each is trained: enough to tell them apart, no more.
_REGIMES: tuple[tuple[Regime, int], ...] = (("natural", 200), ("standard", 100), ("background", 100))
_DIGITS = "mnist-5k"

#: In the store.
PAGE = "demo.html"


@dataclass(frozen=True)
class DemoResult:
    """What the demo did, the page that shows it, and what to try after it."""

    attack: AttackResult
    trained: tuple[TrainResult, ...]
    evaluation: EvalResult
    page: Path
    next_commands: tuple[str, ...]

    @property
    def exit_code(self) -> ExitCode:
        """That of the attack."""
        return self.attack.exit_code

    def to_json(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        return {
            "attack": to_json(self.attack),
            "trained": [to_json(one) for one in self.trained],
            "evaluation": to_json(self.evaluation),
            "page": str(self.page),
            "next": list(self.next_commands),
        }


def run(options: DemoOptions, session: Session) -> DemoResult:
    """Attack photos, train the paper's three regimes on digits for a short while, evaluate them, write the page.

    Nothing is downloaded. Raises LatcliError where the packages do not carry their photos.
    """
    session = replace(session, offline=True)
    attack = _attack(session)
    trained = tuple(_train(regime, steps, session) for regime, steps in _REGIMES)
    session.note("evaluating the three models: 200 digits, 20 steps")
    models = tuple(one.run for one in trained)
    evaluation = run_eval(EvalOptions(models=models, dataset=_DIGITS, images=200, steps=20), session)
    page = session.store / PAGE
    runs = (attack.run or "", *models, evaluation.run)
    run_report(ReportOptions(runs=runs, html=page), replace(session, json=False))
    return DemoResult(attack, trained, evaluation, page, _next_commands(attack, session))


def _attack(session: Session) -> AttackResult:
    session.note("attacking the backgrounds of two photos that ultralytics and matplotlib carry, 40 steps each")
    photos = tuple(map(str, package_photos()))
    return run_attack(AttackOptions(photos=photos, labels=PACKAGE_LABELS, detector="cam"), session)


def _train(regime: Regime, steps: int, session: Session) -> TrainResult:
    return run_train(TrainOptions(regime=regime, dataset=_DIGITS, preset="quick", steps=steps), session)


def _next_commands(attack: AttackResult, session: Session) -> tuple[str, ...]:
    store = "" if session.store == Path("runs") else f" --store {shlex.quote(str(session.store))}"
    return (
        "latcli attack PHOTO.jpg --detector cam",
        "latcli attack FOLDER --labels LABELS.csv --epsilon 4/255",
        "latcli train --regime background --dataset mnist --data DIR",
        f"latcli eval --strong{store}",
        f"latcli report{store}",
        f"latcli runs show {(attack.run or '')[-4:]}{store}",
        "latcli doctor",
    )
