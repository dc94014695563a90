"""Steps of a reproduction, each one invocation of a subcommand; must not know which are needed or done.

A step is told what the subcommand is told on the command line, and nothing else, so that whoever doubts a figure can
make it alone.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from latcli.commands.attack import run as run_attack
from latcli.commands.evaluate import run as run_eval
from latcli.commands.train.command import run as run_train
from latcli.options import AttackOptions, EvalOptions, TrainOptions, command_words
from latcli.reporting.text import number_text
from latcli.session import Session

#: Options of the session that decide what a step computes, or where it finds and leaves things.
_SHARED = ("store", "data", "device", "precision", "offline")


@dataclass(frozen=True)
class Training:
    """`latcli train`."""

    options: TrainOptions
    seed: int

    @property
    def title(self) -> str:
        """In few words."""
        kept = self.options.mask_from
        return f"train {self.options.regime}{f' ({kept} masks)' if kept else ''}, seed {self.seed}"

    def run(self, session: Session, resume: str | None) -> str:
        """Train, or go on with a run that was cut off; the run's id. Raises as `latcli train` does."""
        options = self.options if resume is None else TrainOptions(resume=resume)
        return run_train(options, _with(session, self.seed)).run


@dataclass(frozen=True)
class Evaluation:
    """`latcli eval` of the models that the trainings make; `options` name none.

    aim: what is found out, in few words.
    """

    options: EvalOptions
    models: tuple[Training, ...]
    seed: int
    aim: str

    @property
    def title(self) -> str:
        """In few words."""
        return f"evaluate {self.aim}, {len(self.models)} model{'' if len(self.models) == 1 else 's'}"

    def run(self, session: Session, resume: str | None, models: tuple[str, ...]) -> str:
        """Evaluate, or go on with a run that was cut off; the run's id. Raises as `latcli eval` does."""
        options = replace(self.options, models=models) if resume is None else EvalOptions(resume=resume)
        return run_eval(options, _with(session, self.seed)).run


@dataclass(frozen=True)
class PhotoAttack:
    """`latcli attack`."""

    options: AttackOptions
    seed: int

    @property
    def title(self) -> str:
        """In few words."""
        within = number_text(self.options.epsilon)
        return f"attack {', '.join(Path(one).name for one in self.options.photos)} within {within}, seed {self.seed}"

    def run(self, session: Session) -> str:
        """Attack; the run's id. Raises as `latcli attack` does."""
        result = run_attack(self.options, _with(session, self.seed))
        return str(result.run)


Step = Training | Evaluation | PhotoAttack

_COMMANDS = {Training: "train", Evaluation: "eval", PhotoAttack: "attack"}


def command_of(step: Step) -> str:
    """The subcommand that carries it out."""
    return _COMMANDS[type(step)]


def command_line(step: Step, session: Session, names: Mapping[Training, str]) -> str:
    """What a user types for this step alone. names: what stands for the models of an evaluation."""
    words = ["latcli", command_of(step)]
    if isinstance(step, Evaluation):
        words += [names[one] for one in step.models]
    words += command_words(step.options)
    words += [] if step.seed == 0 else ["--seed", str(step.seed)]
    for name in _SHARED:
        value = getattr(session, name)
        if value != getattr(Session(), name):
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return shlex.join(words)


def _with(session: Session, seed: int) -> Session:
    return replace(session, seed=seed)
