"""`latcli attack`: photos in, adversarial photos and a stored run out; must not know how a result is shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from latcli.commands.attack.files import Keeper, box_rows, file_names
from latcli.commands.attack.options import attack_settings, config_of, localization, protocol
from latcli.commands.attack.pictures import PictureDrawer
from latcli.commands.attack.result import AttackResult, Failure, PlannedPhoto
from latcli.commands.detection_cache import StoredDetections
from latcli.commands.photo_inputs import LabelOf, PhotoSource, find_sources, labeller, sha256_of
from latcli.commands.trained import classifier_path
from latcli.engine import registry
from latcli.engine.detectors.auto import open_detector
from latcli.engine.detectors.base import Detector
from latcli.engine.detectors.settings import DetectorSettings
from latcli.engine.devices import open_device
from latcli.engine.failures import explained
from latcli.engine.labels import parse_label
from latcli.engine.models.catalog import open_classifier
from latcli.engine.models.classifier import Classifier
from latcli.engine.models.imagenet import ClassifierSource
from latcli.engine.photos import Localized, OnMiss, PhotoAttacker, PhotoSettings, batches
from latcli.errors import ContractError, LatcliError, NoObjectError, StoreError, WeightsError
from latcli.options import AttackOptions
from latcli.session import Session
from latcli.store.store import Store


def run(options: AttackOptions, session: Session) -> AttackResult:
    """Attack every photo, keep what comes of it, and say what happened.

    Of several photos, one that fails is noted and the rest goes on; a photo on its own raises its LatcliError. Raises
    UsageError, ImageError and WeightsError before a run is begun, StoreError and ContractError at any time.
    """
    settings = PhotoSettings(
        epsilon=options.epsilon,
        region=options.region,
        localization=localization(options),
        attack=attack_settings(options),
        at_model_resolution=options.at_model_resolution,
        precision=session.precision,
        seed=session.seed,
    )
    attack = registry.load("attack", options.attack)
    sources = find_sources(options.photos)
    device = open_device(session.device)
    weights = ClassifierSource(options.classifier_weights, session.offline, session.shows_progress)
    classifier = open_classifier(classifier_path(options.classifier, session.store), weights, device)
    label_of = labeller(classifier, options.label, options.labels, options.labels_from)
    if options.target is not None:
        settings = replace(settings, target=parse_label(options.target, classifier))
    detector = _open_detector(options, session, classifier)
    shown = {"epsilon": options.epsilon, "region": options.region, **protocol(options)}
    result = AttackResult(classifier.name, detector.name, shown, options.dry_run, options.check_success)
    with Store.open(session.store) as store:
        attacker = PhotoAttacker(classifier, detector, attack, settings, StoredDetections(store), session.forms)
        photos = _localized(attacker, sources, label_of, result, session, options.on_miss)
        if options.dry_run:
            _plan(attacker, photos, result, options.steps * options.restarts)
            return result
        config = config_of(options) | {
            "precision": session.precision,
            "form": attacker.gradients.form,
            "labels_sha256": sha256_of(options.labels),
        }
        model = store.record_model(classifier.name, weights_sha256=classifier.fingerprint)
        with (
            store.start_run(
                "attack",
                **session.of_run(),
                config=config,
                seed=session.seed,
                device=str(device),
                model=model,
            ) as stored,
            explained(),
        ):
            result.run, result.dir = stored.id, stored.folder
            names = file_names([source.name for source in sources])
            with (
                PictureDrawer(attacker, figures=not options.no_figures) as drawer,
                Keeper(drawer, store, stored, protocol(options)) as keeper,
            ):
                for batch in batches(photos, options.batch):
                    attacked_photos = attacker.attack_batch(batch)
                    keeper.keep_pictures()  # of the batch before, drawn meanwhile: no more than one is held
                    for attacked in attacked_photos:
                        result.images.append(keeper.keep(attacked, names[attacked.localized.photo.name]))
                keeper.keep_pictures()
            stored.set_exit_code(result.exit_code)
    return result


def _localized(
    attacker: PhotoAttacker,
    sources: list[PhotoSource],
    label_of: LabelOf,
    result: AttackResult,
    session: Session,
    on_miss: OnMiss,
) -> Iterator[Localized]:
    """Photos ready for the attack, read one after the other; those that cannot be are noted in the result."""
    with session.progress("photos", len(sources)) as tick:
        for source in sources:
            try:
                yield attacker.localize(source.read(), label_of(source))
            except (ContractError, StoreError, WeightsError):
                raise  # no fault of this photo: the next one would meet the same
            except LatcliError as error:
                skipped = isinstance(error, NoObjectError) and on_miss == "skip"
                if len(sources) == 1 and not skipped:
                    raise
                message = error.message if source.name in error.message else f"{source.name}: {error.message}"
                result.failures.append(Failure(source.name, message, error.hint, error.exit_code, skipped))
                session.note(f"{'skipped' if skipped else 'error'}: {message}")
            tick()


def _plan(attacker: PhotoAttacker, photos: Iterator[Localized], result: AttackResult, passes: int) -> None:
    for one in photos:
        height, width = one.photo.size
        result.planned.append(
            PlannedPhoto(
                image=one.photo.name,
                label=one.label,
                height=height,
                width=width,
                clean=one.clean,
                how=one.how,
                boxes=box_rows(one),
                background_percent=100 * one.background_share,
                visible_background_percent=100 * one.visible_share,
                seconds=passes * attacker.seconds_a_step(one),
            )
        )


def _open_detector(options: AttackOptions, session: Session, classifier: Classifier) -> Detector:
    settings = DetectorSettings(
        weights=options.detector_weights,
        confidence=options.detector_confidence,
        offline=session.offline,
        device=classifier.device,
        classifier=classifier,
        threshold=options.cam_threshold,
        progress=session.shows_progress,
        trust_weights=options.trust_weights,
    )
    if options.box or options.mask is not None or options.center is not None:
        none: Detector = registry.load("detector", "none")(settings)  # nobody is asked, so nobody has to be there
        return none
    detector, why = open_detector(options.detector, settings)
    if options.detector == "auto":
        session.note(why)
    return detector
