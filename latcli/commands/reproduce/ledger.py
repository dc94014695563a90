"""How each step of a reproduction stands against a store: done, interrupted, running, missing; must not run steps.

A step is done where a completed run was told all that decides what is computed, on the same data, with the same seed;
how it came to be told that (options, presets, defaults of another day) does not matter. Weights of an attacked
classifier and of a detector are known by what they are called, not by what is in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from latcli.commands.attack import config_of as attack_config
from latcli.commands.evaluate import settings_of
from latcli.commands.report import MATRIX
from latcli.commands.reproduce.steps import Evaluation, PhotoAttack, Step, Training, command_of
from latcli.commands.train.options import DEFAULT_PRESET, resolve
from latcli.commands.trained import CHECKPOINT
from latcli.engine.datasets.base import Dataset
from latcli.engine.images import sha256_of
from latcli.engine.photo_files import find_sources
from latcli.engine.training.presets import preset_row
from latcli.errors import ExitCode
from latcli.results import canonical_json, to_json
from latcli.session import Session
from latcli.store.store import RunRow, Store, dataset_id

State = Literal["done", "interrupted", "running", "missing"]

#: What runs of a latcli that did not know these yet did.
_UNTOLD: dict[str, Any] = {"precision": "auto", "mask_fingerprint": None}
#: Regimes that compute the same wherever the object is, and what says where it is.
_WITHOUT_OBJECT = frozenset({"natural", "standard"})
_OF_OBJECT = frozenset({"center", "mask_from", "mask_fingerprint"})
#: Parts of an attack's configuration that decide how it is kept or shown, or that are compared by contents instead.
_OF_ATTACK_FREE = frozenset({"photos", "labels", "batch", "dry_run", "check_success"})


@dataclass(frozen=True)
class Standing:
    """How a step stands, and the run behind that; None where there is none."""

    state: State
    run: RunRow | None = None


@dataclass
class Ledger:
    """What a store has of a reproduction's steps. data: the set of small images, None where no step looks at one.

    Asks the store once; `refresh` after a step.
    """

    store: Store
    session: Session
    data: Dataset | None
    rows: list[RunRow]
    _fits: dict[Step, Callable[[RunRow], bool]] = field(default_factory=dict)

    @classmethod
    def of(cls, store: Store, session: Session, data: Dataset | None) -> Ledger:
        """Raises StoreError."""
        return cls(store, session, data, store.runs())

    def refresh(self) -> None:
        """Look at the store again. Raises StoreError."""
        self.rows = self.store.runs()

    def standing(self, step: Step) -> Standing:
        """The newest run that counts: a finished one, else one at work, else one that was cut off.

        Raises UsageError where the step's options cannot be meant, ImageError where photos cannot be read.
        """
        fits = self._fitting(step)
        found = [row for row in self.rows if row.command == command_of(step) and row.seed == step.seed and fits(row)]
        for row in found:
            if row.status == "completed":
                return Standing("done", row)
        for row in found:
            if row.status == "running":
                return Standing("running", row)
        cut_off = [] if isinstance(step, PhotoAttack) else [row for row in found if row.path.is_dir()]
        return Standing("interrupted", cut_off[0]) if cut_off else Standing("missing")

    def trained(self, steps: Iterable[Training]) -> dict[Training, str]:
        """The runs of those that are done."""
        standings = {step: self.standing(step) for step in steps}
        return {step: one.run.id for step, one in standings.items() if one.state == "done" and one.run is not None}

    def _fitting(self, step: Step) -> Callable[[RunRow], bool]:
        if isinstance(step, Evaluation):  # depends on which models there are by now
            return self._fits_evaluation(step)
        if step not in self._fits:
            asked = self._fits_training(step) if isinstance(step, Training) else self._fits_attack(step)
            self._fits[step] = asked
        return self._fits[step]

    def _fits_training(self, step: Training) -> Callable[[RunRow], bool]:
        data, options = self._data(), step.options
        preset = options.preset or DEFAULT_PRESET
        settings = resolve(options, preset_row(preset, fine_tuning=False), data.defaults, step.seed)
        wanted = {
            "architecture": options.architecture or data.defaults.architecture,
            "preset": preset,
            "precision": self.session.precision,
            "mask_fingerprint": data.mask_fingerprint,
            **settings.to_json(),
        }
        if settings.regime in _WITHOUT_OBJECT:
            wanted = {name: value for name, value in wanted.items() if name not in _OF_OBJECT}
        name = dataset_id(data.name, data.fingerprint)

        def fits(row: RunRow) -> bool:
            whole = row.status != "completed" or (row.path / CHECKPOINT).is_file()
            return whole and row.dataset == name and _was_told(row, wanted)

        return fits

    def _fits_evaluation(self, step: Evaluation) -> Callable[[RunRow], bool]:
        data, trained = self._data(), self.trained(step.models)
        if len(trained) < len(step.models):
            return lambda row: False
        models = set(trained.values())
        wanted = {
            "dataset_fingerprint": data.fingerprint,
            "precision": self.session.precision,
            "mask_fingerprint": data.mask_fingerprint,
            **to_json(settings_of(step.options, data, self.session)),
            "seed": step.seed,
        }

        def fits(row: RunRow) -> bool:
            entries = row.config.get("entries")
            evaluated = [entry.get("train_run") for entry in entries or () if isinstance(entry, dict)]
            same_models = len(evaluated) == len(models) and set(evaluated) == models
            whole = row.status != "completed" or (row.path / MATRIX).is_file()
            return same_models and whole and _was_told(row, wanted)

        return fits

    def _fits_attack(self, step: PhotoAttack) -> Callable[[RunRow], bool]:
        wanted = {name: value for name, value in attack_config(step.options).items() if name not in _OF_ATTACK_FREE}
        labels = step.options.labels
        wanted |= {"labels_sha256": None if labels is None else sha256_of(labels)}
        wanted["precision"] = self.session.precision
        sources = find_sources(step.options.photos)
        photos = {sha256_of(source.path) for source in sources}

        def fits(row: RunRow) -> bool:
            if not _was_told(row, wanted):
                return False
            attacked = {image["sha256"] for image in self.store.rows_of(row.id, "attacks")}
            # What could not be attacked, for want of an object or of a picture, cannot be the next time either.
            failed = row.exit_code not in (None, ExitCode.OK)
            return attacked == photos or (failed and bool(attacked) and attacked < photos)

        return fits

    def _data(self) -> Dataset:
        if self.data is None:
            raise RuntimeError("a step needs small images, and none were opened")
        return self.data


def _was_told(row: RunRow, wanted: Mapping[str, Any]) -> bool:
    told = {name: row.config.get(name, _UNTOLD.get(name, _MISSING)) for name in wanted}
    return _MISSING not in told.values() and canonical_json(told) == canonical_json(wanted)


_MISSING: Any = object()
