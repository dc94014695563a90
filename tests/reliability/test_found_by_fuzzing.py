"""What the fuzzer found once, as small as it can be said, so that it is found at once if it ever comes back."""

from __future__ import annotations

import gzip
import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))

from report_store import whole  # noqa: E402

from latcli.commands.configuration import Command, Option, settings_for  # noqa: E402
from latcli.commands.form_folder import FormFolder  # noqa: E402
from latcli.commands.report.command import TABLES, gather  # noqa: E402
from latcli.commands.report.options import ReportOptions  # noqa: E402
from latcli.commands.report.shapes import require_consistent  # noqa: E402
from latcli.commands.runs import list_runs  # noqa: E402
from latcli.session import Session  # noqa: E402
from latcli.documents import DocumentError, gunzip, read_json, require_shape  # noqa: E402
from latcli.engine import registry  # noqa: E402
from latcli.engine.models.checkpoint import CheckpointInfo, open_checkpoint, pack  # noqa: E402
from latcli.errors import StoreError, UsageError, WeightsError  # noqa: E402
from latcli.reporting.further_tables import transfer  # noqa: E402
from latcli.store.database import Store  # noqa: E402
from latcli.store.run import mark_crashed  # noqa: E402

pytestmark = pytest.mark.reliability

INFO = asdict(CheckpointInfo("paper-cnn", (1, 4, 4), ("a", "b"), "mnist", "0" * 64, "natural", 0.3, 1))


@pytest.mark.parametrize(
    "changed",
    [
        {"image_shape": True},
        {"image_shape": []},
        {"image_shape": [1, [4], 4]},
        {"image_shape": [1.5, 4, 4]},
        {"image_shape": ["1", "4", "4"]},
        {"image_shape": [-1, 4, 4]},
        {"image_shape": [10**9, 10**9, 10**9]},
        {"architecture": 3},
        {"architecture": ["paper-cnn"]},
        {"class_names": None},
        {"class_names": []},
        {"epsilon": {}},
    ],
    ids=repr,
)
def test_a_checkpoint_whose_header_is_of_another_shape(changed: dict[str, Any], tmp_path: Path) -> None:
    net = registry.load("architecture", "paper-cnn")((1, 4, 4), 2)
    (tmp_path / "c.safetensors").write_bytes(pack("classifier", net.state_dict(), INFO))
    open_checkpoint(tmp_path / "c.safetensors")
    (tmp_path / "c.safetensors").write_bytes(pack("classifier", net.state_dict(), INFO | changed))
    with pytest.raises(WeightsError):
        open_checkpoint(tmp_path / "c.safetensors")


@pytest.mark.parametrize(
    "text",
    [f"a = {'9' * 5000}", f"a = 0x{'f' * 5000}", f"a = {'[' * 3000}", "a = 1e400", "\udc80"],
    ids=lambda t: t[:8],
)
def test_numbers_and_lists_without_end_in_a_file_of_options(text: str, tmp_path: Path) -> None:
    file = tmp_path / "latcli.toml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError) as refused:
        settings_for((), Command({"a": Option("a", "value")}, {}), [file])
    assert len(refused.value.message) < 400


def test_a_key_of_fifty_thousand_letters_is_no_riddle(tmp_path: Path) -> None:
    file = tmp_path / "latcli.toml"
    file.write_text(f"{'a' * 50_000} = 1")
    with pytest.raises(UsageError) as refused:
        settings_for((), Command({"a": Option("a", "value")}, {}), [file])
    assert len(refused.value.message) < 400


NESTED = b"[" * 20_000 + b"]" * 20_000


@pytest.mark.parametrize("data", [NESTED, b"[]", b"3", b"null", b"\xff", b"", b'{"a": ' + b"9" * 5000 + b"}"])
def test_a_run_document_that_is_none(data: bytes, tmp_path: Path) -> None:
    with Store.open(tmp_path / "runs") as store:
        with store.start_run("train", argv=[], config={}, seed=0, device="cpu") as run:
            pass
        (run.folder / "run.json").write_bytes(data)
        with closing(sqlite3.connect(store.path)) as db, db:
            db.execute("UPDATE runs SET status = 'running'")
        mark_crashed(store, run.id)
        assert store.find_run(run.id).status == "crashed"
        with pytest.raises(StoreError, match="damaged"):
            store.resume_run(run.id, argv=[])


@pytest.mark.parametrize(
    "data", [NESTED, b'{"form": [], "seconds": {}}', b'{"form": "fp32", "seconds": {"fp32": "x"}}']
)
def test_a_remembered_form_that_is_none_is_forgotten(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "key.json").write_bytes(data)
    assert FormFolder(tmp_path).recall("key") is None
    assert FormFolder(tmp_path).choices() == []


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("store") / "runs"
    return folder, whole(folder)


@pytest.fixture
def changed(stored: tuple[Path, dict[str, str]]) -> Iterator[sqlite3.Connection]:
    """The database, open for a change that is undone at the end."""
    path = stored[0] / "latcli.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        kept = path.read_bytes()
        yield db
    path.write_bytes(kept)


def _report(folder: Path) -> dict[str, Any]:
    return gather(ReportOptions(), Session(store=folder, quiet=True), TABLES).to_json()


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("UPDATE runs SET argv_json = '[1'", "damaged"),
        ("UPDATE runs SET config_json = '[]'", "damaged"),
        ("UPDATE runs SET finished = 'now'", "damaged"),
        ("UPDATE runs SET started = CAST(x'ff' AS TEXT)", "damaged"),
        ("ALTER TABLE attacks RENAME COLUMN norm TO normal", "no norm"),
        ("DROP TABLE cells", "damaged"),
        ("DROP TABLE metrics; CREATE TABLE metrics (run TEXT, name TEXT, step INTEGER, value REAL)", "damaged"),
    ],
)
def test_a_database_that_is_not_as_it_was_made(
    stored: tuple[Path, dict[str, str]], changed: sqlite3.Connection, statement: str, complaint: str
) -> None:
    with changed:
        changed.execute("DROP VIEW loss_matrix")
        for part in statement.split("; "):
            changed.execute(part)
    with pytest.raises(StoreError, match=complaint):
        list_runs(stored[0])


@pytest.mark.parametrize("text", ["[1]", "{}", '[["x"]]', '[[0, "1"]]', "[[", "[[0, 1, 2, 3, 4]]", "[null]"])
@pytest.mark.parametrize("column", ["boxes_json", "notes_json", "adversarial_top_json"])
def test_a_photo_whose_row_cannot_be_understood_is_a_fault(
    stored: tuple[Path, dict[str, str]], changed: sqlite3.Connection, column: str, text: str
) -> None:
    with changed:
        changed.execute(f"UPDATE attacks SET {column} = ? WHERE position = 0", [text])
    assert [fault["fault"] for fault in _report(stored[0])["faults"]] == ["unreadable"]


def test_settings_that_no_run_is_told_are_said_to_be_damaged(
    stored: tuple[Path, dict[str, str]], changed: sqlite3.Connection
) -> None:
    with changed:
        changed.execute("UPDATE runs SET config_json = json_set(config_json, '$.regime', json('[1]'))")
    with pytest.raises(StoreError, match=r"regime is list"):
        _report(stored[0])


def test_a_loss_that_diverged_in_transfer_has_no_figure() -> None:
    models = [{"id": "a", "label": "a"}]
    row = {"input": "standard", "source": "a", "target": "a", "n": 3, "loss": None, "accuracy": 0.5}
    assert transfer({"models": models, "transfer": [row]})


def test_gzip_stops_at_the_limit_and_reads_several_members() -> None:
    assert gunzip(gzip.compress(b"ab") + gzip.compress(b"c"), 3) == b"abc"
    for damaged in (gzip.compress(bytes(1 << 24)), gzip.compress(b"abcd")[:-9], b"no gzip", gzip.compress(b"a") + b"x"):
        with pytest.raises(DocumentError):
            gunzip(damaged, 1 << 20)


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        (True, int), (1.0, int), ("1", float), (None, str), ([1, "a"], list[int]), ({"a": 1}, dict[str, str]),
        ([1], tuple[int, int]), (10**30, int), (10**30, Any), ({}, CheckpointInfo),
        (INFO | {"more": 1}, CheckpointInfo),
    ],
)  # fmt: skip
def test_a_value_of_another_shape_is_refused(value: object, shape: object) -> None:
    with pytest.raises(DocumentError):
        require_shape(value, shape)


def test_a_value_of_the_shape_is_taken_as_it_is() -> None:
    assert read_json(json.dumps(INFO), CheckpointInfo)["image_shape"] == [1, 4, 4]
    require_shape({"a": [1, 2.5, None]}, dict[str, list[float | None]])


def test_a_training_state_of_other_numbers(tmp_path: Path) -> None:
    from latcli.engine.training.state import read_state

    told = {"step": 7, "architecture": "paper-cnn", "dataset_fingerprint": "0" * 64, "form": "fp32", "threads": 1}
    for changed in ({"step": float("inf")}, {"step": -1}, {"threads": 0}, {"ranks": "2"}, {"step": 10**400}):
        data = pack("training state", {"net.weight": torch.zeros(1)}, told | changed)
        (tmp_path / "state").write_bytes(data)
        with pytest.raises(WeightsError):
            read_state(tmp_path / "state")


POINT = {"value": 0.1, "n": 5, "accuracy": 0.5}
CURVE = {"model": "a", "input": "standard", "axis": "epsilon", "points": [POINT]}
PAIR = {"input": "standard", "source": "a", "target": "a", "n": 5, "loss": 1.0, "accuracy": 0.5}


@pytest.mark.parametrize(
    "told",
    [
        {"curves": [CURVE, CURVE | {"points": [POINT | {"value": 0.3}]}]},
        {"curves": [CURVE | {"points": []}]},
        {"curves": [CURVE | {"model": "b"}]},
        {"transfer": [PAIR, PAIR | {"source": None}, PAIR | {"source": None, "target": "b"}]},
        {"transfer": [PAIR | {"accuracy": float("inf")}]},
    ],
    ids=["other points", "no points", "unknown model", "holes", "infinite"],
)
def test_an_evaluation_whose_tables_do_not_hold_together(told: dict[str, Any]) -> None:
    document = {"models": [{"id": "a", "label": "a"}], "curves": [CURVE], "transfer": [PAIR]}
    require_consistent(document)
    if told.get("transfer", [{}])[-1].get("target") == "b":
        document["models"] = [*document["models"], {"id": "b", "label": "b"}]
    with pytest.raises(DocumentError):
        require_consistent(document | told)
