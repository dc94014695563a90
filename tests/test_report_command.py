"""`latcli report` as its user has it: fresh processes, files that are whole or not there, errors before the work."""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from report_store import train, whole

from latcli.commands.report import writing as report_writing
from latcli.errors import LatcliError, UsageError
from latcli.options import ReportOptions
from latcli.session import Session
from latcli.store.store import DATABASE, Store

RunLatcli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("command") / "runs"
    return folder, whole(folder)


def names_in(folder: Path) -> set[str]:
    """Every file but SQLite's own beside a database, which come and go."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(("-shm", "-wal")))
    return {str(path.relative_to(folder)) for path in files}


def test_without_options_it_is_useful_plain_and_changes_nothing(
    run_latcli: RunLatcli, stored: tuple[Path, dict[str, str]]
) -> None:
    before = names_in(stored[0])
    done = run_latcli("report", "--store", stored[0])
    assert (done.returncode, done.stderr) == (0, "")
    assert "Loss matrix on mnist" in done.stdout
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert done.stdout.isascii() or "猫" in done.stdout  # a photo's name is shown as it is
    assert names_in(stored[0]) == before


def test_nothing_heavy_is_imported_for_the_terminal(
    run_latcli: RunLatcli, stored: tuple[Path, dict[str, str]], latcli_environment: dict[str, str], tmp_path: Path
) -> None:
    code = (
        "import sys; from latcli import process; from latcli.cli import app;"
        f"assert process.run(app, ['report', '--paper', '--store', {str(stored[0])!r}]) == 0;"
        "heavy = {'torch', 'numpy', 'pandas', 'matplotlib', 'PIL', 'jinja2'};"
        "sys.stderr.write(' '.join(sorted(heavy & set(sys.modules))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=latcli_environment, check=True
    )
    assert done.stderr == ""


def test_json_is_one_document_with_everything(run_latcli: RunLatcli, stored: tuple[Path, dict[str, str]]) -> None:
    folder, runs = stored
    document = json.loads(run_latcli("report", "--json", "--store", folder).stdout)
    assert {run["run"] for run in document["runs"]} == set(runs.values())
    assert document["paper"] is None
    assert len(document["training"][0]["series"]["loss"]) == 10
    assert [cell["run"] for cell in document["loss_matrix"]] == [runs["evaluation"]] * 12
    assert document["attacks"][0]["images"][0]["files"]["mask"] is not None


def test_a_dash_is_stdout_and_nothing_else_is_there(run_latcli: RunLatcli, stored: tuple[Path, dict[str, str]]) -> None:
    done = run_latcli("report", "--csv", "-", "--store", stored[0])
    assert done.returncode == 0
    assert len(list(csv.DictReader(io.StringIO(done.stdout)))) > 100
    assert run_latcli("report", "--markdown", "-", "--store", stored[0]).stdout.startswith("# Report of ")
    assert run_latcli("report", "--latex", "-", "--store", stored[0]).stdout.rstrip().endswith(r"\end{document}")


def test_files_are_written_and_named(
    run_latcli: RunLatcli, stored: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    done = run_latcli(
        "report", "--store", stored[0], "--markdown", "r.md", "--latex", "r.tex", "--png", "pictures/deep"
    )
    work = tmp_path / "work"
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[:2] for line in done.stdout.splitlines()[:2]] == [["wrote", "r.md"], ["wrote", "r.tex"]]
    assert {path.suffix for path in (work / "pictures/deep").iterdir()} == {".png"}
    assert names_in(work) == {"r.md", "r.tex", *(f"pictures/deep/{p.name}" for p in (work / "pictures/deep").iterdir())}
    told = json.loads(run_latcli("report", "--json", "--store", stored[0], "--csv", "r.csv").stdout)
    assert told["written"] == [{"format": "csv", "path": "r.csv", "size": (work / "r.csv").stat().st_size}]


def test_two_runs_are_compared(run_latcli: RunLatcli, stored: tuple[Path, dict[str, str]]) -> None:
    folder, runs = stored
    done = run_latcli("report", "--compare", runs["standard"], runs["background"], "--store", folder)
    assert done.returncode == 0
    assert "Told differently" in done.stdout
    document = json.loads(
        run_latcli("report", "--compare", runs["standard"], runs["background"], "--json", "--store", folder).stdout
    )
    assert [run["run"] for run in document["runs"]] == [runs["standard"], runs["background"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--markdown", "no/such/folder/r.md"], "cannot be written"),
        (["--csv", "."], "is a folder"),
        (["--png", "file"], "cannot be written"),
        (["--csv", "file/r.csv"], "cannot be written"),
        (["--open"], "--open needs a page"),
        (["--compare"], "--compare needs two runs, not 0"),
        (["--csv", "-", "--json"], "would both be on stdout"),
        (["zzzz"], "there is no run 'zzzz'"),
        (["--since", "soon"], "'soon' is no date"),
    ],
)
def test_what_cannot_be_done_is_two_lines_and_leaves_nothing(
    run_latcli: RunLatcli, stored: tuple[Path, dict[str, str]], tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "work" / "file").write_text("mine")
    done = run_latcli("report", "--store", stored[0], *arguments)
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert [line.partition(": ")[0] for line in done.stderr.splitlines()] == ["error", "hint"]
    assert message in done.stderr
    assert names_in(tmp_path / "work") == {"file"}
    assert (tmp_path / "work" / "file").read_text() == "mine"


def test_an_empty_store_a_missing_one_and_a_newer_one(run_latcli: RunLatcli, tmp_path: Path) -> None:
    missing = run_latcli("report", "--store", tmp_path / "typo")
    assert missing.returncode == 1
    assert "there are no runs" in missing.stderr
    with Store.open(tmp_path / "empty"):
        pass
    empty = run_latcli("report", "--store", tmp_path / "empty")
    assert "there are no runs" in empty.stderr
    assert "latcli attack PHOTO" in empty.stderr
    with closing(sqlite3.connect(tmp_path / "empty" / DATABASE)) as connection:
        connection.execute("INSERT INTO _migrations VALUES ('m999_later', '')")
        connection.commit()
    newer = run_latcli("report", "--store", tmp_path / "empty")
    assert newer.returncode == 1
    assert "another version of latcli" in newer.stderr


@pytest.mark.parametrize("name", ["latcli.db", "latcli.db-wal", "RUN/matrix.json", "RUN/report.md", "link/matrix.json"])
def test_a_report_never_replaces_what_it_is_made_of(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "runs"
    run = whole(folder)["evaluation"]
    (tmp_path / "link").symlink_to(folder / run)
    path = tmp_path / name if name.startswith("link") else folder / name.replace("RUN", run)
    kept = path.read_bytes() if path.exists() else None
    with pytest.raises(UsageError, match="belongs to the store"):
        report_writing.run(ReportOptions(markdown=path), Session(store=folder))
    assert (path.read_bytes() if path.exists() else None) == kept


def test_a_report_may_lie_beside_the_runs(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    with Store.open(folder) as store:
        train(store, "natural", 0)
    report_writing.run(ReportOptions(markdown=folder / "report.md"), Session(store=folder))
    assert (folder / "report.md").read_text().startswith("# Report")


def test_what_fails_half_way_leaves_the_file_that_was_there(
    stored: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(document: object) -> Iterator[str]:
        yield "half of it"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("latcli.reporting.markdown.render", half)
    path = tmp_path / "report.md"
    path.write_text("the last one")
    with pytest.raises(LatcliError, match="no space left"):
        report_writing.run(ReportOptions(markdown=path), Session(store=stored[0]))
    assert path.read_text() == "the last one"
    assert names_in(tmp_path) >= {"report.md"}
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".latcli")] == []


def test_a_pipe_is_written_into_and_stays_a_pipe(stored: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        report_writing.run(ReportOptions(csv=pipe), Session(store=stored[0]))
        if not pipe.is_fifo():
            reader.kill()  # it would wait for ever
        assert reader.communicate()[0].startswith(b"kind,run,")
    assert pipe.is_fifo()


def test_a_pipe_of_the_shell_is_written_into(stored: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    with (tmp_path / "r.csv").open("wb") as file, subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file) as cat:
        assert cat.stdin is not None
        path = Path(f"/dev/fd/{cat.stdin.fileno()}")  # as the shell's >(cat) names it
        report_writing.run(ReportOptions(csv=path), Session(store=stored[0]))
        cat.stdin.close()
    assert (tmp_path / "r.csv").read_bytes().startswith(b"kind,run,")


def test_no_path_is_tried_after_the_work_has_begun(
    stored: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gathered(*_: object) -> Iterable[object]:
        raise AssertionError("the work had begun")

    monkeypatch.setattr(report_writing, "gather", gathered)
    options = ReportOptions(markdown=tmp_path / "good.md", csv=tmp_path / "none" / "r.csv")
    with pytest.raises(LatcliError, match="cannot be written"):
        report_writing.run(options, Session(store=stored[0]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("opens", [True, False])
def test_the_page_is_written_then_opened(
    stored: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opens: bool
) -> None:
    pytest.importorskip("latcli.reporting.page")
    opened: list[str] = []

    def browser(address: str) -> bool:
        assert (tmp_path / "a page.html").exists()
        opened.append(address)
        return opens

    monkeypatch.setattr("webbrowser.open", browser)
    said = io.StringIO()
    options = ReportOptions(html=tmp_path / "a page.html", open=True)
    report_writing.run(options, Session(store=stored[0], stderr=said))
    assert opened == [(tmp_path / "a page.html").as_uri()]
    assert ("no browser" in said.getvalue()) is not opens
