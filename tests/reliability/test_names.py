"""Names with escape codes, line breaks or markup do no harm where a command speaks: errors, notes, logs, tables."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent))

from report_store import WILD, photo

from latcli.commands.runs import list_runs, remove_runs, show_run, verify_runs
from latcli.errors import ExitCode, LatcliError
from latcli.process import run
from latcli.reporting import listing
from latcli.session import Session
from latcli.store.store import Store

pytestmark = pytest.mark.reliability

RunLatcli = Callable[..., "subprocess.CompletedProcess[str]"]
NAMES = [*WILD, "[red]bold[/red]", "[/]", "\x9b31m", "a\x00b", "\udcff\udc80", "\u2028\u2029\u200f"]


def _harmless(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize("name", NAMES)
def test_an_error_is_two_lines_whatever_it_names(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    import typer

    app = typer.Typer()

    @app.command()
    def fail() -> None:
        raise LatcliError(f"cannot read {name}", f"look at {name}")

    assert run(app, []) == ExitCode.FAILURE
    told = capsys.readouterr().err
    assert _harmless(told)
    assert [line.partition(":")[0] for line in told.splitlines()] == ["error", "hint"]


@pytest.mark.parametrize("name", NAMES)
def test_a_note_is_one_line_and_json_stays_json(name: str) -> None:
    stdout, stderr = io.StringIO(), io.StringIO()
    session = Session(stdout=stdout, stderr=stderr)
    session.note(f"note: {name}")
    session.print_json({"name": name})
    assert stderr.getvalue().count("\n") == 1
    assert _harmless(stderr.getvalue())
    assert json.loads(stdout.getvalue()) == {"name": name}
    assert stdout.getvalue().isascii()


@pytest.mark.parametrize("name", NAMES)
def test_a_log_has_a_line_for_each_entry(name: str, tmp_path: Path) -> None:
    with (
        Store.open(tmp_path / "runs") as store,
        store.start_run("attack", argv=["latcli", name], config={"name": name}, seed=0, device="cpu") as begun,
    ):
        begun.log(f"photo {name}")
        begun.log("end")
    lines = (begun.folder / "log.txt").read_text(encoding="utf-8").split("\n")
    assert len(lines) == 3
    assert _harmless("\n".join(lines))
    assert lines[1].endswith("end")
    assert json.loads((begun.folder / "run.json").read_bytes())["argv"][0] == "latcli"


def test_runs_are_shown_as_text_whatever_they_are_called(tmp_path: Path) -> None:
    with Store.open(tmp_path / "runs") as store:
        for name in WILD:
            model = store.record_model(name)
            with store.start_run(
                "attack", argv=["latcli", name], config={name: name}, seed=0, device=name, model=model
            ) as begun:
                begun.record_attack(photo(0, name, name, name))
                begun.record_metrics([(name, 0, 1.0)])
                begun.write_artifact(f"{name.replace('/', '_').strip() or 'x'}.png"[:200], b"1", name)
                begun.log(name)
    session = Session(stdout=io.StringIO())
    session.print(listing.runs(list_runs(store.folder).to_json()))
    for row in list_runs(store.folder).runs:
        session.print(listing.run(show_run(store.folder, row.id).to_json()))
        (row.path / next(iter(show_run(store.folder, row.id).artifacts))["name"]).write_bytes(b"2")
    session.print(listing.verification(verify_runs(store.folder).to_json()))
    session.print(
        listing.removal(remove_runs(store.folder, [row.id for row in list_runs(store.folder).runs]).to_json())
    )
    assert _harmless(session.stdout.getvalue())  # type: ignore[attr-defined]
    assert "\x1b" not in session.stdout.getvalue()  # type: ignore[attr-defined]


def test_a_real_command_says_a_wild_name_in_two_plain_lines(run_latcli: RunLatcli) -> None:
    done = run_latcli("attack", "\x1b]0;owned\x07\n<b>[red].jpg", "--offline")
    assert done.returncode != 0
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 2
    assert _harmless(done.stderr)
