"""How long a step of a reproduction will take: from runs of its kind, else from one gradient; must not run steps.

A run that was cut off and went on later counts with its pause; the median over runs of a kind forgives some of that.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

from latcli.commands.attack import config_of as attack_config
from latcli.commands.evaluate import settings_of
from latcli.commands.reproduce.ledger import Ledger, Standing
from latcli.commands.reproduce.steps import Evaluation, PhotoAttack, Step, Training
from latcli.commands.train.options import DEFAULT_PRESET, resolve
from latcli.engine import registry
from latcli.engine.datasets.base import Dataset
from latcli.engine.devices import open_device
from latcli.engine.evaluation.settings import EvalSettings
from latcli.engine.photo_files import find_sources
from latcli.engine.precision import gradient_model
from latcli.engine.training.loop import new_network
from latcli.engine.training.presets import preset_row
from latcli.engine.training.settings import TrainSettings
from latcli.results import to_json
from latcli.store.store import RunRow

#: An update of the weights, in gradients of the inner attack: forward and backward in full precision, and a step.
_UPDATE = 4.0
#: The strong suite on an image that withstands it: APGD, nine targets of it, and queries at a third of a gradient.
_FULL_SUITE, _QUICK_SUITE = 100 + 9 * 100 + 5000 / 3, 10 + 3 * 10 + 100 / 3
#: Images of which a gradient is timed.
_TIMED = 64


@dataclass
class Times:
    """Expected seconds of steps on this machine; what is measured is measured once."""

    ledger: Ledger
    _gradients: dict[str, float] = field(default_factory=dict)

    def expected(self, step: Step, standing: Standing) -> float | None:
        """Of what is left of a step, None where nothing tells; 0 for one that is done."""
        if standing.state == "done":
            return 0.0
        if isinstance(step, Training):
            return self._training(step) * self._left(step, standing)
        if isinstance(step, Evaluation):
            return self._evaluation(step)
        return self._attack(step)

    def _training(self, step: Training) -> float:
        data = self._data()
        architecture = step.options.architecture or data.defaults.architecture
        settings = _settings(step, data)
        wanted = settings.to_json() | {"architecture": architecture}
        costs = ("architecture", "loss", *(("attack", "attack_steps") if settings.is_adversarial else ()))
        alike = self._alike("train", wanted, costs)
        of_kind = [seconds / _images(row) for row, seconds in alike if _is_adversarial(row) == settings.is_adversarial]
        if of_kind:
            return settings.steps * settings.batch * median(of_kind)
        return settings.steps * settings.batch * _gradients_to_learn(wanted) * self._gradient(architecture)

    def _left(self, step: Training, standing: Standing) -> float:
        """The share of its steps that a training that was cut off has yet to take."""
        if standing.run is None:
            return 1.0
        known = self.ledger.store.rows_of(standing.run.id, "latest_metrics")
        done = max((int(row["step"]) for row in known), default=0)
        return max(0.0, 1.0 - done / _settings(step, self._data()).steps)

    def _evaluation(self, step: Evaluation) -> float:
        data = self._data()
        settings = settings_of(step.options, data, self.ledger.session)
        wanted = to_json(settings) | {"entries": step.models}
        alike = self._alike("eval", wanted, ("steps", "restarts", "until_wrong", "strong"))
        if alike:
            return _attacked(wanted) * median(seconds / _attacked(row.config) for row, seconds in alike)
        architecture = step.models[0].options.architecture or data.defaults.architecture
        return _attacked(wanted) * _gradients_an_image(settings) * self._gradient(architecture)

    def _attack(self, step: PhotoAttack) -> float | None:
        wanted = attack_config(step.options)
        alike = self._alike("attack", wanted, ("classifier", "detector", "steps", "restarts", "attack"))
        photos = len(find_sources(step.options.photos))
        counted = [(self._photos(row), seconds) for row, seconds in alike]
        return photos * median(seconds / n for n, seconds in counted) if counted else None

    def _photos(self, row: RunRow) -> int:
        return max(1, len(self.ledger.store.rows_of(row.id, "attacks")))

    def _alike(self, command: str, wanted: dict[str, Any], names: Iterable[str]) -> list[tuple[RunRow, float]]:
        """Completed runs that had as much to do for each image or step, and their seconds."""
        kind = {name: wanted[name] or None for name in names}
        rows = [row for row in self.ledger.rows if row.command == command and row.status == "completed"]
        rows = [row for row in rows if {name: row.config.get(name) or None for name in kind} == kind]
        if command != "attack":
            rows = [row for row in rows if (row.dataset or "").rpartition("@")[0] == self._data().name]
        return [(row, row.seconds) for row in rows if row.seconds]

    def _gradient(self, architecture: str) -> float:
        """Seconds an image: what training runs of the same network took, else timed."""
        if architecture not in self._gradients:
            runs = self._alike("train", {"architecture": architecture, "attack": "pgd"}, ("architecture", "attack"))
            known = [seconds / (_images(row) * _gradients_to_learn(row.config)) for row, seconds in runs]
            self._gradients[architecture] = median(known) if known else self._timed(architecture)
        return self._gradients[architecture]

    def _timed(self, architecture: str) -> float:
        data, session = self._data(), self.ledger.session
        net = new_network(registry.load("architecture", architecture), data, 0).to(open_device(session.device))
        fast = gradient_model(net, data.image_shape, session.precision)
        x_BCHW = torch.rand(_TIMED, *data.image_shape, device=open_device(session.device)).requires_grad_()
        for _ in range(2):  # the first one warms up
            started = time.perf_counter()
            torch.autograd.grad(fast(x_BCHW).sum(), x_BCHW)[0].sum().item()  # waits for the device
        return (time.perf_counter() - started) / _TIMED

    def _data(self) -> Dataset:
        if self.ledger.data is None:
            raise RuntimeError("a step needs small images, and none were opened")
        return self.ledger.data


def _settings(step: Training, data: Dataset) -> TrainSettings:
    row = preset_row(step.options.preset or DEFAULT_PRESET, fine_tuning=False)
    return resolve(step.options, row, data.defaults, step.seed)


def _is_adversarial(row: RunRow) -> bool:
    return bool(row.config["regime"] != "natural")


def _images(row: RunRow) -> int:
    """How many images a training saw."""
    return int(row.config["steps"]) * int(row.config["batch"])


def _gradients_to_learn(config: Mapping[str, Any]) -> float:
    """Of one image that is trained on under PGD, or as it is."""
    return _UPDATE + (0 if config["regime"] == "natural" else int(config["attack_steps"]))


def _attacked(config: Mapping[str, Any]) -> int:
    """How many images an evaluation attacks by PGD, over its models and columns; a transfer attacks its own anew."""
    columns = (4 if config["controls"] else 2) + (2 if config["transfer"] else 0)
    return max(1, len(config["entries"])) * columns * int(config["images"])


def _gradients_an_image(settings: EvalSettings) -> float:
    """Of one model, in one column."""
    suite = {None: 0.0, "full": _FULL_SUITE, "quick": _QUICK_SUITE}[settings.strong]
    return settings.steps * settings.restarts + suite
