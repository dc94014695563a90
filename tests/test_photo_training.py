"""`latcli train` on photos: masks, what is resumed, what is refused, and that the model can be attacked."""

import os
import signal
import time
from dataclasses import replace

import pytest
import torch
from photo_set import SMALL, save_weights, write_photos
from PIL import Image
from training_cases import interrupted_at

from latcli.commands.evaluate import run as evaluate
from latcli.commands.train import run
from latcli.engine.models.catalog import open_classifier
from latcli.engine.models.classifier import ClassifierSource
from latcli.engine.models.weights import unpack
from latcli.errors import ImageError, UsageError
from latcli.options import EvalOptions, TrainOptions
from latcli.session import Session
from latcli.store.store import Store

CPU = torch.device("cpu")


@pytest.fixture
def session(tmp_path):
    return Session(store=tmp_path / "runs", data=tmp_path, device="cpu", precision="fp32", offline=True, quiet=True)


@pytest.fixture
def options(tmp_path):
    """Three steps of four photos, masks from files."""
    write_photos(tmp_path / "set", masks=tmp_path / "masks")
    return TrainOptions(
        dataset=f"folder:{tmp_path / 'set'}",
        architecture=SMALL,
        classifier_weights=save_weights(tmp_path / "small.safetensors"),
        mask_from="folder",
        masks=tmp_path / "masks",
        preset="quick",
        steps=3,
        batch=4,
        attack_steps=1,
        checkpoint_every=1,
    )


def digest(result):
    return str(unpack(result.checkpoint, "classifier")[1]["digest"])


def config(session, result):
    with Store.open_existing(session.store) as store:
        return store.find_run(result.run).config


def cut_off(options, session, monkeypatch, step=2):
    """Start a run, and end it by Ctrl-C at that step; its id."""
    with interrupted_at(monkeypatch, step), pytest.raises(KeyboardInterrupt):
        run(options, session)
    with Store.open_existing(session.store) as store:  # two runs of the same second have names in any order
        return store.find_run("latest").id


def test_masks_from_files_protect_in_training_and_scoring(options, session):
    result = run(options, session)
    kept = config(session, result)
    assert (result.architecture, result.final.n) == (SMALL, 4)
    assert result.adversarial is not None
    assert (kept["mask_from"], kept["masks"], len(kept["mask_fingerprint"])) == ("folder", str(options.masks), 64)
    assert kept["classifier_weights"] == str(options.classifier_weights)
    natural = run(replace(options, regime="natural", mask_from=None, masks=None, steps=1), session)
    kept = config(session, natural)  # which asks no detector
    assert (kept["mask_from"], kept["mask_fingerprint"], natural.adversarial) == ("center", None, None)


def test_a_run_that_was_cut_off_ends_with_the_same_bits(options, session, monkeypatch):
    options = replace(options, mask_from=None, masks=None, detector="cam")  # by default a detector finds objects
    whole = run(options, session)
    begun = cut_off(options, session, monkeypatch)
    resumed = run(TrainOptions(resume=begun), session)
    assert resumed.resumed_at == 2
    assert digest(resumed) == digest(whole)
    assert (config(session, resumed)["mask_from"], config(session, resumed)["detector"]) == ("detector", "cam")


def test_kept_classes_are_the_classifiers_own_in_eval_and_after_an_interruption(
    tmp_path, options, session, monkeypatch
):
    for split in ("train", "test"):
        for name, to in (("green", "n01514859_hen"), ("red", "snail")):
            (tmp_path / "set" / split / name).rename(tmp_path / "set" / split / to)
    options = replace(options, keep_classes=True, regime="natural", masks=None, mask_from=None)
    undisturbed = run(options, session)
    resumed = run(TrainOptions(resume=cut_off(options, session, monkeypatch)), session)
    pretrained = open_classifier(SMALL, ClassifierSource(options.classifier_weights), CPU)
    kept = open_classifier(str(resumed.checkpoint), ClassifierSource(), CPU)
    write_photos(tmp_path / "others")
    for split in ("train", "test"):
        for name, to in (("green", "n01774750_tarantula"), ("red", "banjo")):
            (tmp_path / "others" / split / name).rename(tmp_path / "others" / split / to)
    others = EvalOptions(
        models=(resumed.run,), dataset=f"folder:{tmp_path / 'others'}", mask_from="center", steps=1, images=2
    )

    assert digest(resumed) == digest(undisturbed)
    assert (kept.class_names, kept.class_ids) == (pretrained.class_names, pretrained.class_ids)
    assert evaluate(others, session).cells[0].n == 4
    (tmp_path / "set" / "train" / "snail").rename(tmp_path / "set" / "train" / "8")
    (tmp_path / "set" / "test" / "snail").rename(tmp_path / "set" / "test" / "8")
    with pytest.raises(UsageError, match="has no class '8'"):
        run(options, session)


def test_other_masks_are_not_resumed_with(options, session, tmp_path, monkeypatch):
    begun = cut_off(options, session, monkeypatch, step=1)
    path = tmp_path / "masks" / "train" / "red" / "0.png"
    with Image.open(path) as image:
        turned = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    turned.save(path)
    with pytest.raises(UsageError, match="are not those that"):
        run(TrainOptions(resume=begun), session)
    with pytest.raises(UsageError, match="--detector cam"):
        run(TrainOptions(resume=begun, detector="cam"), session)


def test_what_does_not_go_together_is_refused_before_a_run_is_begun(options, session):
    for changes, message in [
        ({"preset": "paper"}, "the preset paper is for small networks"),
        ({"masks": None}, "--mask-from folder needs the folder"),
        ({"mask_from": "center"}, "--masks is not used with --mask-from center"),
        ({"mask_from": "otsu", "masks": None, "center": 0.9}, "--center is not used with --mask-from otsu"),
        ({"boxes": "best"}, "--boxes is not used where no detector looks"),
        ({"architecture": "torchvision:resnet1"}, "there is no torchvision classifier called"),
        ({"architecture": "no_such:net"}, "the classifier no_such:net cannot be imported"),
        ({"architecture": "resnet18"}, "resize|pixels"),
        ({"batch": 16}, "a batch of 16 is larger than the 8 training images"),
        ({"dataset": "mnist-5k"}, "needs photos, and mnist-5k has none"),
    ]:
        with pytest.raises(UsageError, match=message) as caught:
            run(replace(options, **changes), session)
        assert caught.value.hint
        assert list(session.store.glob("*-train-*")) == []


@pytest.mark.slow
def test_a_test_photo_that_cannot_be_read_does_not_cost_the_model(options, session, tmp_path):
    photo = min((tmp_path / "set" / "test").rglob("*.png"))
    photo.write_bytes(photo.read_bytes()[:-40])
    with pytest.raises(ImageError, match="damaged"):
        run(replace(options, regime="natural", mask_from=None, masks=None), session)
    (kept,) = session.store.glob("*/checkpoint.safetensors")
    assert unpack(kept, "classifier")


def test_photos_without_a_word_are_for_the_default_classifier(options, session):
    said = TrainOptions(dataset=options.dataset, regime="natural", preset="quick", steps=1, batch=2)
    result = run(said, session)
    assert result.architecture == "efficientnet_lite0"
    assert ["efficientnet_lite0 is fine-tuned" in note for note in result.notes] == [True]


@pytest.mark.slow
def test_a_run_is_interrupted_resumed_and_attacked_as_its_user_does(options, start_latcli, latcli, work, tmp_path):
    """Ctrl-C as a terminal sends it, to the processes that read photos, too."""
    arguments = ["--dataset", str(options.dataset), "--architecture", SMALL, "--preset", "quick", "--precision", "fp32"]
    arguments += ["--classifier-weights", str(options.classifier_weights), "--detector", "cam", "--steps", "24"]
    process = start_latcli("train", *arguments, "--batch", "4", "--checkpoint-every", "2")
    deadline = time.monotonic() + 120
    while not list(work.glob("runs/*/state.safetensors")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "died" not in said
    trained = latcli("train", "--resume", "latest", "--json").json
    assert 0 < trained["resumed_at"] <= 24
    photo = tmp_path / "set" / "test" / "red" / "0.png"
    place = ("--labels-from", "folder", "--center", "0.4", "--steps", "3")
    (image,) = latcli("attack", photo, "--classifier", trained["run"][-4:], *place, "--json").json["images"]
    assert (image["label"]["name"], image["linf_inside"]) == ("red", 0)
