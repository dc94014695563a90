"""`latcli train`: a data set in, a trained classifier and a stored run out; must not know how a result is shown."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import nn

from latcli.commands.resume import resumable_run
from latcli.commands.signals import PendingSignal, postponed
from latcli.commands.train.data import open_data, open_pretrained, with_objects
from latcli.commands.train.monitor import Monitor
from latcli.commands.train.options import (
    DEFAULT_PRESET,
    PhotoOptions,
    check_photo_options,
    describe,
    given_plainly,
    resolve,
)
from latcli.commands.train.ranks import Plan, agreed_signal, answer, call, gathered
from latcli.commands.trained import CHECKPOINT
from latcli.engine import registry
from latcli.engine.datasets.base import TrainingData
from latcli.engine.datasets.catalog import full_name
from latcli.engine.datasets.photo_folder import PhotoFolder
from latcli.engine.devices import open_device
from latcli.engine.failures import explained
from latcli.engine.models.checkpoint import CheckpointInfo, pack_classifier
from latcli.engine.models.finetuning import check_architecture, fine_tuned, is_classifier_name
from latcli.engine.models.small import Architecture
from latcli.engine.models.weights import state_dict_sha256
from latcli.engine.precision import Form, gradient_model
from latcli.engine.training.loop import Trainer, new_network, train
from latcli.engine.training.presets import Preset, PresetName, preset_row
from latcli.engine.training.ranks import Ranks
from latcli.engine.training.scoring import adversarial_score, natural_score
from latcli.engine.training.settings import TrainSettings
from latcli.engine.training.state import TrainingState, pack_state, read_state, restore
from latcli.errors import ExitCode, LatcliError, UsageError
from latcli.options import TrainOptions
from latcli.results import Score, TrainResult
from latcli.session import Session
from latcli.store.files import artifact_path
from latcli.store.store import Run, RunRow, Store

STATE = "state.safetensors"

#: Without --checkpoint-every, the state is kept this often.
_STATE_SECONDS = 60.0
#: A signal that has waited so long for the end of a step is let through in the middle of its inner attack.
_PATIENCE_SECONDS = 0.5
#: Numbers are recorded at about so many steps of a run.
_MEASUREMENTS = 200


@dataclass(frozen=True)
class Job:
    """All that is settled before the first step; the same for a run that begins and one that goes on."""

    dataset: TrainingData
    architecture: str
    preset: PresetName
    settings: TrainSettings
    device: torch.device
    photos: PhotoOptions

    @property
    def row(self) -> Preset:
        """What the preset means for this architecture."""
        return preset_row(self.preset, fine_tuning=is_classifier_name(self.architecture))

    def network(self, session: Session) -> nn.Module:
        """The network with the weights that training begins with. Raises UsageError, WeightsError."""
        return new_network(self._architecture(session), self.dataset, self.settings.seed).to(self.device)

    def trainer(self, state: TrainingState | None, session: Session, ranks: Ranks) -> Trainer:
        """A trainer that stands where the state was, or with fresh weights in the form of gradients that suits it.

        All ranks make theirs at the same time. Raises UsageError, and WeightsError for a state that does not fit.
        """
        net = self.network(session)
        form = state.form if state else self._form(net, session)
        call(ranks, self._plan(form, state))
        return _placed(Trainer(net, self.dataset, self.settings, form, ranks), state, self.architecture)

    def _form(self, net: nn.Module, session: Session) -> Form:
        fast = gradient_model(net, self.dataset.image_shape, session.precision)
        if fast.note:
            session.note(f"note: {fast.note}")
        return fast.form

    def _plan(self, form: Form, state: TrainingState | None) -> Plan:
        return Plan(
            dataset=self.dataset.name,
            fingerprint=self.dataset.fingerprint,
            masks=self.dataset.masks if isinstance(self.dataset, PhotoFolder) else None,
            architecture=self.architecture,
            photos=self.photos,
            preset=self.preset,
            settings=self.settings,
            form=form,
            threads=torch.get_num_threads(),
            state=state,
        )

    def _architecture(self, session: Session) -> Architecture:
        if not is_classifier_name(self.architecture):
            small: Architecture = registry.load("architecture", self.architecture)
            return small
        pretrained = open_pretrained(self.architecture, self.photos, session)
        return lambda image_shape, classes: fine_tuned(pretrained, self.dataset.class_names)


def run(options: TrainOptions, session: Session) -> TrainResult:
    """Train a classifier, or go on with a run that was cut off, and keep it.

    Raises UsageError and LatcliError for options and data that are unusable, before a run is begun; WeightsError for a
    state that is damaged or does not fit; DivergedError, ContractError and StoreError while it trains.
    """
    with gathered(options, session) as (ranks, session):
        if ranks.rank:
            _follow(ranks, session)
        with Store.open(session.store) as store:
            if options.resume is not None:
                return _resume(store, options, session, ranks)
            return _begin(store, options, session, ranks)


def _begin(store: Store, options: TrainOptions, session: Session, ranks: Ranks) -> TrainResult:
    job = _job(options, store, session, seed=session.seed)
    trainer = job.trainer(None, session, ranks)
    dataset = store.record_dataset(job.dataset.name, fingerprint=job.dataset.fingerprint)
    config: dict[str, object] = {
        "dataset": full_name(options.dataset or registry.DEFAULT_DATASET),
        "dataset_fingerprint": job.dataset.fingerprint,
        "architecture": job.architecture,
        "preset": job.preset,
        "precision": session.precision,
        "devices": ranks.size // ranks.nodes,
        "nodes": ranks.nodes,
        **job.settings.to_json(),
        **asdict(job.photos),
        "mask_fingerprint": job.dataset.mask_fingerprint,
        "checkpoint_every": options.checkpoint_every,
        "notes": list(job.dataset.notes),
    }
    with (
        store.start_run(
            "train",
            **session.of_run(),
            config=config,
            seed=job.settings.seed,
            device=str(job.device),
            dataset=dataset,
        ) as stored,
        explained(),
    ):
        session.note(f"run {stored.id}")
        stored.log(describe(job.preset, job.settings, job.dataset.name, job.architecture))
        stored.log(f"gradients of the inner attack: {trainer.form}, {_processes(ranks)}")
        for note in job.dataset.notes:
            stored.log(note)
        keeper = _Keeper(stored, trainer, job.architecture, options.checkpoint_every)
        keeper.save()
        return _train(store, stored, job, trainer, keeper, session)


def _resume(store: Store, options: TrainOptions, session: Session, ranks: Ranks) -> TrainResult:
    row = resumable_run(store, str(options.resume), "train", given_plainly(options), session)
    job = _job_of(row, store, session)
    kept = artifact_path(row.path, STATE)
    state = read_state(kept) if kept.exists() else None
    if state is not None:
        _use_threads(state, job.device, session, ranks)
    trainer = job.trainer(state, session, ranks)
    if row.device is not None and torch.device(row.device).type != job.device.type:
        session.note(
            f"begun on {row.device}, going on on {job.device}: the weights will differ from an undisturbed run"
        )
    with store.resume_run(row.id, argv=sys.argv, name=session.name, tags=session.tag) as stored, explained():
        line = f"resumed at step {trainer.done:,} of {job.settings.steps:,}, {_processes(ranks)}"
        session.note(f"run {stored.id} {line}")
        stored.log(line)
        every = options.checkpoint_every or row.config.get("checkpoint_every")
        keeper = _Keeper(stored, trainer, job.architecture, every)
        return _train(store, stored, job, trainer, keeper, session, resumed_at=trainer.done)


def _follow(ranks: Ranks, session: Session) -> NoReturn:
    """Be a rank other than 0 to the end: what is computed is rank 0's to tell and keep.

    Ends the process. Raises LatcliError where this rank's data set is not rank 0's.
    """
    plan = answer(ranks)
    device = torch.device(session.device)
    if device.type == "cpu":
        torch.set_num_threads(plan.threads)
    data = open_data(plan.dataset, plan.architecture, plan.photos, device, session)
    if data.fingerprint != plan.fingerprint:
        raise LatcliError(f"the data set {plan.dataset} is not the one of rank 0", "put the same files under --data")
    if plan.masks is not None and isinstance(data, PhotoFolder):
        data = data.with_masks(plan.masks)
    job = Job(data, plan.architecture, plan.preset, plan.settings, device, plan.photos)
    net = job.network(session)
    ranks.meet()
    trainer = _placed(Trainer(net, data, job.settings, plan.form, ranks), plan.state, job.architecture)
    with postponed() as pending:
        train(
            trainer,
            on_step=lambda report: None,
            after_step=lambda step: pending.deliver(agreed_signal(pending, ranks)),
            measure_every=_measure_every(job.settings),
        )
    sys.exit(ExitCode.OK)


def _placed(trainer: Trainer, state: TrainingState | None, architecture: str) -> Trainer:
    if state is not None:
        restore(trainer, state, architecture)
    return trainer


def _measure_every(settings: TrainSettings) -> int:
    return max(1, settings.steps // _MEASUREMENTS)


def _processes(ranks: Ranks) -> str:
    return (
        f"{ranks.size} x {torch.get_num_threads()} threads" if ranks.size > 1 else f"{torch.get_num_threads()} threads"
    )


def _job(options: TrainOptions, store: Store, session: Session, *, seed: int) -> Job:
    device = open_device(session.device)
    preset = options.preset or DEFAULT_PRESET
    if options.architecture is not None:
        check_architecture(options.architecture)
    photos = PhotoOptions.of(given_plainly(options))
    dataset = open_data(options.dataset or registry.DEFAULT_DATASET, options.architecture, photos, device, session)
    architecture = options.architecture or dataset.defaults.architecture
    fine_tuning = is_classifier_name(architecture)
    settings = resolve(options, preset_row(preset, fine_tuning=fine_tuning), dataset.defaults, seed)
    check_photo_options(options, settings.mask_from, fine_tuning=fine_tuning)
    session.note(describe(preset, settings, dataset.name, architecture))
    dataset, photos = with_objects(dataset, architecture, settings.mask_from, photos, device, store, session)
    return Job(dataset, architecture, preset, settings, device, photos)


def _job_of(row: RunRow, store: Store, session: Session) -> Job:
    """What a run was begun with, whatever the defaults are by now. Raises UsageError where its masks have changed."""
    settings = TrainSettings.from_json(row.config)
    missing = [name for name in ("dataset", "architecture", "preset") if name not in row.config]
    if missing:
        raise UsageError(f"{row.id} does not say its {', '.join(missing)}", "it was written by another latcli")
    device, photos = open_device(session.device), PhotoOptions.of(row.config)
    architecture: str = row.config["architecture"]
    dataset = open_data(row.config["dataset"], architecture, photos, device, session)
    dataset, photos = with_objects(dataset, architecture, settings.mask_from, photos, device, store, session)
    if dataset.mask_fingerprint != row.config.get("mask_fingerprint"):
        raise UsageError(
            f"the masks of {dataset.name} are not those that {row.id} was trained on",
            "put the same masks, photos and weights back, or start a new run",
        )
    return Job(dataset, architecture, row.config["preset"], settings, device, photos)


def _use_threads(state: TrainingState, device: torch.device, session: Session, ranks: Ranks) -> None:
    """As many threads as before: the order in which a CPU adds depends on them, and on how many ranks there are."""
    if ranks.size != state.ranks:
        session.note(
            f"kept by {state.ranks} processes, going on on {ranks.size}: the weights will differ in their last digits"
        )
    elif device.type == "cpu" and torch.get_num_threads() != state.threads:
        session.note(f"using {state.threads} threads, as the run did before")
        torch.set_num_threads(state.threads)


class _Keeper:
    """Writes the state into the run now and then; the one before stays until the new one is whole."""

    def __init__(self, stored: Run, trainer: Trainer, architecture: str, every: int | None) -> None:
        self._stored, self._trainer, self._architecture, self._every = stored, trainer, architecture, every
        self._saved_at, self._saved_step = time.monotonic(), trainer.done

    def after_step(self, pending: PendingSignal, before_saving: Callable[[], None]) -> Callable[[int], None]:
        """What to do after each step: keep the state when it is time, and let a signal through once it is kept.

        `before_saving` writes what a resumed run would not compute again.
        """

        def keep(step: int) -> None:
            stop = agreed_signal(pending, self._trainer.ranks)
            if stop is not None or self._is_due(step):
                before_saving()
                self.save()
            if stop is not None:
                pending.deliver(stop)

        return keep

    def within_step(self, pending: PendingSignal, before_saving: Callable[[], None]) -> Callable[[], None]:
        """What to do in a step, while the weights are those of the last one: give up a long one for a signal."""

        def stop() -> None:
            if pending.has_waited(_PATIENCE_SECONDS) and self._trainer.ranks.size == 1:  # several stop at one step
                before_saving()
                self.save()
                pending.deliver(pending.number)

        return stop

    def save(self) -> None:
        """Keep the state now. Raises DivergedError, StoreError."""
        self._stored.write_artifact(STATE, pack_state(self._trainer, self._architecture), "state")
        self._saved_at, self._saved_step = time.monotonic(), self._trainer.done

    def _is_due(self, step: int) -> bool:
        if step == self._trainer.settings.steps:
            return True
        if self._every is not None:
            return step - self._saved_step >= self._every
        return time.monotonic() - self._saved_at >= _STATE_SECONDS


def _train(
    store: Store,
    stored: Run,
    job: Job,
    trainer: Trainer,
    keeper: _Keeper,
    session: Session,
    resumed_at: int | None = None,
) -> TrainResult:
    settings, first = job.settings, trainer.done
    watched = trainer.ranks.watched()  # inside the run, which a lost rank must fail
    with session.progress("training", settings.steps) as tick, postponed() as pending, watched:
        tick(first)
        monitor = Monitor(session, stored, tick, steps=settings.steps, done=first, batch=settings.batch)
        trainer.between = keeper.within_step(pending, monitor.flush)
        try:
            train(
                trainer,
                on_step=monitor.on_step,
                after_step=keeper.after_step(pending, monitor.flush),
                measure_every=_measure_every(settings),
            )
        finally:
            monitor.close()  # a run that diverged shows how it came to that
    seconds = monitor.seconds
    final, adversarial = _scores(trainer, job, session)
    checkpoint = _keep_model(store, stored, job, trainer)
    _record_scores(stored, settings.steps, final, adversarial)
    stored.remove_artifact(STATE)  # nothing is left to resume, and it is four times as large as the model
    return TrainResult(
        run=stored.id,
        dir=stored.folder,
        checkpoint=checkpoint,
        regime=settings.regime,
        dataset=job.dataset.name,
        architecture=job.architecture,
        steps=settings.steps,
        epsilon=settings.epsilon if settings.is_adversarial else None,
        form=trainer.form,
        final=final,
        adversarial=adversarial,
        attack=_attack_name(settings, job.row) if adversarial else None,
        resumed_at=resumed_at,
        seconds=seconds,
        images_per_second=monitor.images_per_second,
        devices=trainer.ranks.size,
        notes=job.dataset.notes,
    )


def _attack_name(settings: TrainSettings, preset: Preset) -> str:
    return f"{settings.regime} attack, pgd-{preset.score_steps} at epsilon {settings.epsilon:.4g}"


def _scores(trainer: Trainer, job: Job, session: Session) -> tuple[Score, Score | None]:
    """On the test images, natural and under the regime's own attack, by the weights that are kept, in fp32."""
    trainer.net.load_state_dict(trainer.weights())
    net = trainer.net.eval()
    data, preset = job.dataset, job.row
    final = natural_score(net, data)
    if not job.settings.is_adversarial:
        return final, None
    session.note(f"attacking {min(preset.score_images, data.test_count):,} test images with pgd-{preset.score_steps}")
    fast = gradient_model(net, data.image_shape, form=trainer.form)
    return final, adversarial_score(net, fast, data, job.settings, images=preset.score_images, steps=preset.score_steps)


def _keep_model(store: Store, stored: Run, job: Job, trainer: Trainer) -> Path:
    weights = trainer.weights()
    info = CheckpointInfo(
        architecture=job.architecture,
        image_shape=job.dataset.image_shape,
        class_names=job.dataset.class_names,
        dataset=job.dataset.name,
        dataset_fingerprint=job.dataset.fingerprint,
        regime=job.settings.regime,
        epsilon=job.settings.epsilon if job.settings.is_adversarial else 0.0,
        steps=job.settings.steps,
    )
    path = stored.write_artifact(CHECKPOINT, pack_classifier(weights, info), "checkpoint")
    model = store.record_model(
        f"{job.architecture}-{job.settings.regime}",
        architecture=job.architecture,
        weights_sha256=state_dict_sha256(weights),
        regime=job.settings.regime,
        run=stored.id,
    )
    stored.made_model(model)
    return path


def _record_scores(stored: Run, step: int, final: Score, adversarial: Score | None) -> None:
    scores = {"test": final} | ({"test_adversarial": adversarial} if adversarial else {})
    values = [(f"{name}_{what}", step, getattr(s, what)) for name, s in scores.items() for what in ("loss", "accuracy")]
    stored.record_metrics(values)
