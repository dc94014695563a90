"""`latcli train`: a data set in, a trained classifier and a stored run out."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latcli.commands import resume
from latcli.commands.classifiers import CHECKPOINT, classifier_source
from latcli.commands.data import config_of, open_data, open_pretrained, with_objects
from latcli.commands.training_steps import STATE, TrainingLog, keep_state, take_steps
from latcli.engine import loggers, registry
from latcli.engine.datasets.base import TrainingData
from latcli.engine.datasets.catalog import full_name
from latcli.engine.devices import open_device
from latcli.engine.distributed import Ranks, world_of
from latcli.engine.models.catalog import (
    CheckpointInfo,
    check_architecture,
    fine_tuned,
    fine_tuned_without_weights,
    is_classifier_name,
    pack_classifier,
)
from latcli.engine.models.classifier import Classifier
from latcli.engine.models.small import Architecture
from latcli.engine.models.weights import load_file, state_dict_sha256
from latcli.engine.precision import gradient_model
from latcli.engine.scoring import adversarial_score, natural_score
from latcli.engine.training.loop import Trainer, check_parts, new_network
from latcli.engine.training.settings import DEFAULT_PRESET, TrainSettings, preset_values, resolve
from latcli.engine.training.state import TrainingState, read_state, restore
from latcli.errors import ExitCode, LatcliError, UsageError, WeightsError
from latcli.options import TrainOptions, given
from latcli.reporting.evaluations import object_words
from latcli.reporting.text import counted
from latcli.results import Score, ScorePoint, TrainResult, to_json
from latcli.session import Session, connected
from latcli.store.files import artifact_path
from latcli.store.store import Run, RunRow, Store


@dataclass(frozen=True)
class Job:
    """All that is settled before the first step; the same for a run that starts and for one that is resumed."""

    options: TrainOptions
    data: TrainingData
    architecture: str
    settings: TrainSettings
    device: torch.device

    @property
    def fine_tuning(self) -> bool:
        """Whether a classifier is trained further on photos."""
        return is_classifier_name(self.architecture)

    def network(self, session: Session, *, fresh: bool) -> nn.Module:
        """The network; where it is `fresh`, with the weights that training starts from.

        A network that a state is loaded into needs none of them, but with --keep-classes the ids of its classes. Raises
        UsageError, WeightsError.
        """
        path, pretrained = self.options.classifier_weights, None
        if self.fine_tuning and (fresh or self.options.keep_classes):
            pretrained = open_pretrained(self.architecture, self.options, session)

        def make(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
            if pretrained is not None:
                return fine_tuned(pretrained, self.data.class_names)
            if self.fine_tuning:
                about = classifier_source(self.options, session)
                return fine_tuned_without_weights(self.architecture, self.data.class_names, described=about)
            small: Architecture = registry.load("architecture", self.architecture)
            return small(image_shape, classes)

        net = new_network(make, self.data, self.settings.seed)
        if fresh and path is not None and not self.fine_tuning:
            _load_start(net, path, self.architecture, self.data, session.note)
        return net.to(self.device)


def run(options: TrainOptions, session: Session) -> TrainResult:
    """Train a classifier, or resume a run that was cut off, and keep it.

    Raises UsageError and LatcliError for options and data that are unusable, before a run is started; WeightsError for
    a state that is damaged or does not fit; DivergedError, ContractError and StoreError while it trains. A process of
    several that is not the first of them ends here.
    """
    loggers.check(options.logger)
    if options.resume is None:  # else the run's own options count
        _refuse_idle(options)
        preset = preset_values(
            options.preset or DEFAULT_PRESET, fine_tuning=is_classifier_name(options.architecture or "")
        )
        devices, nodes = world_of(options.devices, options.nodes)
        check_parts(options.batch or preset.get("batch", TrainSettings.batch), devices * nodes)
    ranks, session = connected(options, session)
    with ranks.watched():
        if ranks.rank:
            # Without a run, which rank 0 keeps, and which it reports where all stop on a signal.
            job, trainer = _prepared(None, None, options, None, session, ranks)
            take_steps(trainer, None, job.options.test_every, None, None)
            sys.exit(ExitCode.OK)
        with Store.open(session.store) as store:
            row, state = None, None
            if options.resume is not None:
                asked = resume.plainly(given(options))
                row = resume.resumable_run(store, options.resume, "train", asked, session, [options.architecture])
                kept = artifact_path(row.path, STATE)
                state = read_state(kept) if kept.exists() else None
            store.check_name(session.name, "" if row is None else row.id)
            job, trainer = _prepared(row, state, options, store, session, ranks)
            with resume.running(
                store,
                row,
                "train",
                session,
                at=lambda: f"stopped at step {trainer.done:,}",
                config=_config(job, trainer, session),
                seed=job.settings.seed,
                device=str(job.device),
                dataset=store.record_dataset(job.data.name, fingerprint=job.data.fingerprint),
            ) as stored:
                _begin(stored, row, job, trainer, session)
                done, name = trainer.done, session.name or stored.id
                about = {"architecture": job.architecture, "dataset": job.data.name, **to_json(job.settings)}
                logged = loggers.LoggedRun(stored.id, name, "train", stored.folder, about, done, session.offline)
                with loggers.Loggers(options.logger or loggers.installed(), logged, session.note) as trackers:
                    return _train(store, stored, job, trainer, session, trackers, None if row is None else done)


def settings_of(options: TrainOptions, data: TrainingData, seed: int) -> TrainSettings:
    """The settings that these options mean on this data set. Raises UsageError."""
    architecture = options.architecture or data.defaults.architecture
    return resolve(
        resume.plainly(given(options)),
        data.defaults,
        preset=options.preset or DEFAULT_PRESET,
        fine_tuning=is_classifier_name(architecture),
        train_count=data.train_count,
        seed=seed,
    )


def start_fingerprint(weights: Path, architecture: str, data: TrainingData) -> str:
    """The `weights_fingerprint` of a run that starts from these weights. Raises UsageError, WeightsError."""
    net = new_network(registry.load("architecture", architecture), data, 0)
    _load_start(net, weights, architecture, data, lambda _: None)
    return state_dict_sha256(net.state_dict())


def _load_start(
    net: nn.Module, weights: Path, architecture: str, data: TrainingData, note: Callable[[str], None]
) -> None:
    """Raises WeightsError; where the weights fit another small network, its hint names that one."""
    try:
        load_file(weights, lambda _: net, 0, note)
    except WeightsError as error:
        others = [name for name in registry.names("architecture") if name != architecture]
        fitting = [name for name in others if _fits(weights, name, data)]
        raise WeightsError(error.message, f"they fit --architecture {fitting[0]}" if fitting else error.hint) from error


def _fits(weights: Path, architecture: str, data: TrainingData) -> bool:
    try:
        load_file(
            weights, lambda _: new_network(registry.load("architecture", architecture), data, 0), 0, lambda _: None
        )
    except LatcliError:
        return False
    return True


#: Options that say what a classifier is; small networks are made for their data set.
_OF_CLASSIFIERS = ("class_names", "mean", "std", "input_size", "resize")


def _refuse_idle(options: TrainOptions) -> None:
    """Raise UsageError for options that would have no effect."""
    idle = [name for name in _OF_CLASSIFIERS if name in given(options)]
    if idle and options.architecture in registry.names("architecture"):
        raise UsageError(
            f"--{idle[0].replace('_', '-')} is not used for the small network {options.architecture}",
            "leave it out, or fine-tune a classifier: --architecture timm:NAME",
        )
    if options.beta is not None and options.loss != "trades":
        raise UsageError("--beta is the weight of the second part of TRADES", "add --loss trades, or leave it out")


def describe(job: Job) -> str:
    """What preset, options and data set have led to, in one line."""
    settings = job.settings
    parts = [f"{settings.steps:,} steps of {settings.batch}", f"{settings.optimizer} at {settings.rate:g}"]
    if settings.is_adversarial:
        inner = settings.attack if "fgsm" in settings.attack else f"{settings.attack}-{settings.attack_steps}"
        kept = object_words(settings.mask_from, settings.center)
        parts += [f"{inner} at epsilon {settings.epsilon:.4g}", settings.loss]
        parts += [] if settings.regime == "standard" else [f"object: {kept}"]
    what = f"{settings.regime} training of {job.architecture} on {job.data.name}"
    return f"{what}, preset {job.options.preset or DEFAULT_PRESET}: {', '.join(parts)}"


# before the first step


def _config(job: Job, trainer: Trainer, session: Session) -> dict[str, Any]:
    options, ranks = job.options, trainer.ranks
    weights = state_dict_sha256(trainer.net.state_dict()) if options.classifier_weights else None
    name = full_name(options.dataset or registry.DEFAULT_DATASET)
    return config_of(name, job.data, job.settings, options, session) | {
        "architecture": job.architecture,
        "preset": options.preset or DEFAULT_PRESET,
        "epochs": options.epochs,
        **ranks.world,
        "weights_fingerprint": weights,
        "checkpoint_every": options.checkpoint_every,
        "test_every": options.test_every,
        "validation": options.validation,
        **({"keep_classes": True} if options.keep_classes else {}),  # runs without it are older than the option
    }


def _begin(stored: Run, row: RunRow | None, job: Job, trainer: Trainer, session: Session) -> None:
    """Say and log what is begun, and keep the state that a new run starts from."""
    threads = counted(torch.get_num_threads(), "thread")
    processes = f"{trainer.ranks.size} x {threads}" if trainer.ranks.size > 1 else threads
    if row is not None:
        line = f"resumed at step {trainer.done:,} of {job.settings.steps:,}, {processes}"
        session.note(f"run {stored.id} {line}")
        stored.log(line)
        return
    session.note(f"run {stored.id}")
    lines = (describe(job), f"gradients of the inner attack: {trainer.form}, {processes}")
    for line in (*lines, *job.data.notes):
        stored.log(line)
    keep_state(stored, trainer)


def _job(options: TrainOptions, row: RunRow | None, store: Store | None, session: Session) -> Job:
    """What these options mean; of a run, what it was started with, whatever the defaults are by now.

    Raises UsageError, LatcliError, also where data or masks of the run have changed.
    """
    device = open_device(session.device)
    if row is None:
        name = options.dataset or registry.DEFAULT_DATASET
        if options.architecture is not None:
            check_architecture(options.architecture)
    else:
        name = resume.dataset_of(row, options.dataset)
        options = resume.kept_options(options, row, TrainSettings)

    data = open_data(name, options.architecture, options, device, session, row)
    settings = settings_of(options, data, session.seed) if row is None else resume.read_config(TrainSettings, row)
    data = with_objects(data, settings.mask_from, options.architecture, options, store, session, row)
    job = Job(options, data, options.architecture or data.defaults.architecture, settings, device)
    if row is None:
        session.note(describe(job))
    elif row.device is not None and torch.device(row.device).type != device.type:
        session.note(f"started on {row.device}, resumed on {device}: the weights will differ in their last digits")
    return job


def _prepared(
    row: RunRow | None,
    state: TrainingState | None,
    options: TrainOptions,
    store: Store | None,
    session: Session,
    ranks: Ranks,
) -> tuple[Job, Trainer]:
    """The job, and a trainer that stands where the state was, or with the weights that training starts from.

    Run and state, if there are any, are those of rank 0, and so is the form of gradients. Raises as `run` does.
    """
    row, state = ranks.broadcast((row, state))
    job = ranks.agreed(
        lambda: _job(options, row, store, session),
        lambda job: (job.data.fingerprint, job.data.mask_fingerprint),
        "the data set or its masks",
        "put the same files on every machine",
    )
    if state is not None and ranks.size != state.info.ranks:
        session.note(
            f"processes before the interruption: {state.info.ranks}, now: {ranks.size}; "
            "the weights will differ in their last digits"
        )
    elif state is not None and job.device.type == "cpu":
        resume.use_threads(state.info.threads, session)
    net = job.network(session, fresh=state is None)
    fast = gradient_model(net, job.data.image_shape, session.precision, form=state.info.form if state else None)
    if fast.note:
        session.note(f"note: {fast.note}")
    trainer = Trainer(net, job.data, job.settings, ranks.broadcast(fast.form), ranks)
    if state is not None:
        restore(trainer, state)
    return job, trainer


# training


def _train(
    store: Store,
    stored: Run,
    job: Job,
    trainer: Trainer,
    session: Session,
    trackers: loggers.Loggers,
    resumed_at: int | None,
) -> TrainResult:
    settings = job.settings
    with session.progress("training", settings.steps) as tick:
        log = TrainingLog(
            session, stored, tick, trackers, steps=settings.steps, done=trainer.done, batch=settings.batch
        )
        try:
            take_steps(trainer, job.options.checkpoint_every, job.options.test_every, stored, log)
        finally:
            log.flush()  # a run that diverged shows how it got there
    seconds = log.seconds
    checkpoint = _keep_model(store, stored, job, trainer)  # before a test image that cannot be read ends the run
    final, adversarial = _scores(trainer, job, session)
    scores = {name: one for name, one in (("test", final), ("test_adversarial", adversarial)) if one is not None}
    for name, score in scores.items():
        values = {f"{name}_loss": score.loss, f"{name}_accuracy": score.accuracy}
        stored.record_metrics((what, settings.steps, value) for what, value in values.items())
        trackers.scalars({what: value for what, value in values.items() if value is not None}, settings.steps)
    rows = [(name, score.n, score.loss, score.accuracy) for name, score in scores.items()]
    trackers.table("Scores", ("images", "n", "loss", "accuracy"), rows)
    stored.remove_artifact(STATE)  # nothing is left to resume, and it is four times as large as the model
    where = "" if job.fine_tuning else f" --center {settings.center:g}"
    short = stored.id.rpartition("-")[2]
    if registry.names_code(job.architecture):  # which runs only where it is named
        short = f"{job.architecture} --classifier-weights {shlex.quote(str(checkpoint))}"
    attack = f"{settings.regime} attack, pgd-{settings.score_steps} at epsilon {settings.epsilon:.4g}"
    return TrainResult(
        run=stored.id,
        dir=stored.folder,
        checkpoint=checkpoint,
        regime=settings.regime,
        dataset=job.data.name,
        architecture=job.architecture,
        steps=settings.steps,
        epsilon=settings.epsilon if settings.is_adversarial else None,
        form=trainer.form,
        final=final,
        adversarial=adversarial,
        attack=attack if adversarial else None,
        resumed_at=resumed_at,
        seconds=seconds,
        images_per_second=log.images_per_second,
        devices=trainer.ranks.size,
        notes=job.data.notes,
        tests=_test_curve(store, stored) if job.options.test_every else (),
        next_commands=(
            resume.next_command(f"eval {short}", session),
            resume.next_command(f"attack PHOTO --classifier {short}{where}", session),
        ),
    )


def _test_curve(store: Store, stored: Run) -> tuple[ScorePoint, ...]:
    """Scores in the course of training, those before a resumption included."""
    points: dict[int, dict[str, float]] = {}
    for row in store.rows_of(stored.id, "metrics"):
        if row["name"].startswith("test_") and "adversarial" not in row["name"]:
            points.setdefault(row["step"], {})[row["name"].removeprefix("test_")] = row["value"]
    return tuple(ScorePoint(step, **values) for step, values in sorted(points.items()))


def _scores(trainer: Trainer, job: Job, session: Session) -> tuple[Score, Score | None]:
    """On the test images, natural and under the regime's own attack, by the weights that are kept, in fp32."""
    trainer.net.load_state_dict(trainer.weights())
    net, settings, data = trainer.net.eval(), job.settings, job.data
    images, steps = min(settings.score_images, data.test_count), settings.score_steps
    with session.progress("scoring", data.test_count + (images if settings.is_adversarial else 0)) as tick:
        final = natural_score(net, data, tick)
        if not settings.is_adversarial:
            return final, None
        session.note(f"attacking {images:,} test images with pgd-{steps}")
        fast = gradient_model(net, data.image_shape, form=trainer.form)
        return final, adversarial_score(net, fast, data, settings, steps=steps, on_batch=tick)


def _keep_model(store: Store, stored: Run, job: Job, trainer: Trainer) -> Path:
    weights = trainer.weights()
    tuned = trainer.net if isinstance(trainer.net, Classifier) else None
    info = CheckpointInfo(
        architecture=job.architecture,
        image_shape=job.data.image_shape,
        class_names=job.data.class_names,
        dataset=job.data.name,
        dataset_fingerprint=job.data.fingerprint,
        regime=job.settings.regime,
        epsilon=job.settings.epsilon if job.settings.is_adversarial else 0.0,
        steps=job.settings.steps,
        preprocessing=tuned.preprocessing if tuned else None,
        mean=tuple(job.options.mean),
        std=tuple(job.options.std),
        class_ids=tuned.class_ids if tuned else (),
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
