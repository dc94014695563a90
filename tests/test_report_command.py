"""`latcli report` as its user has it: files that are whole or not there, and errors before the work."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from report_store import train

from latcli.commands import report
from latcli.errors import LatcliError, UsageError
from latcli.options import ReportOptions
from latcli.session import Session
from latcli.store.store import Store


def names_in(folder):
    """Every file but SQLite's own beside a database, which come and go."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(("-shm", "-wal")))
    return {str(path.relative_to(folder)) for path in files}


def write(store, **options):
    report.run(ReportOptions(**options), Session(store=store, stderr=io.StringIO()))


def test_without_options_it_is_useful_plain_and_changes_nothing(latcli, stored):
    before = names_in(stored[0])
    done = latcli("report", "--store", stored[0])
    assert (done.code, done.err) == (0, "")
    assert "Loss matrix on mnist" in done.out
    assert "\x1b" not in done.out
    assert names_in(stored[0]) == before


def test_nothing_heavy_is_imported_where_the_store_is_only_read(stored, tmp_path, latcli_environment):
    lines = [["report", "--paper"], ["runs", "list"], ["runs", "show", "latest"], ["runs", "verify"]]
    code = (
        "import sys; from latcli import process; from latcli.cli import app\n"
        f"for line in {lines!r}: assert process.run(app, [*line, '--store', {str(stored[0])!r}]) == 0, line\n"
        f"assert process.run(app, ['eval', '--store', {str(tmp_path / 'none')!r}]) == 1\n"
        "heavy = {'torch', 'numpy', 'pandas', 'matplotlib', 'PIL', 'jinja2'}\n"
        "sys.stderr.write(' '.join(sorted(heavy & set(sys.modules))))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=latcli_environment, check=True)
    assert done.stderr.startswith("error: there are no runs in")
    assert done.stderr.count("\n") == 2
    assert done.stderr.endswith("\n")
    assert not (tmp_path / "none").exists()


def test_json_is_one_document_with_everything(latcli, stored):
    folder, runs = stored
    document = latcli("report", "--json", "--store", folder).json
    assert {run["run"] for run in document["runs"]} == set(runs.values())
    assert document["paper"] is None
    assert len(document["training"][0]["series"]["loss"]) == 10
    assert [one["run"] for one in document["evaluations"]] == [runs["evaluation"]]
    assert document["attacks"][0]["images"][0]["files"]["mask"] is not None


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("csv", "kind,run,", ""),
        ("markdown", "# Report of ", ""),
        ("latex", "% Compiles", "\\end{document}"),
        ("html", "<!doctype html>", "</html>"),
    ],
)
def test_a_dash_is_stdout_and_nothing_else_is_there(latcli, stored, name, start, end):
    printed = latcli("report", f"--{name}", "-", "--store", stored[0]).out.strip()
    assert (printed.startswith(start), printed.endswith(end), len(printed) > 5000) == (True, True, True)


def test_files_are_written_and_named(latcli, stored, work):
    done = latcli("report", "--store", stored[0], "--markdown", "r.md", "--latex", "r.tex", "--png", "pictures/deep")
    assert (done.code, done.err) == (0, "")
    pictures = {f"pictures/deep/{path.name}" for path in (work / "pictures/deep").iterdir()}
    assert {Path(name).suffix for name in pictures} == {".png"}
    assert names_in(work) == {"r.md", "r.tex", *pictures}
    assert all(name in done.out for name in ("r.md", "r.tex", *pictures))
    document = latcli("report", "--json", "--store", stored[0], "--csv", "r.csv").json
    assert document["written"] == [{"format": "csv", "path": "r.csv", "size": (work / "r.csv").stat().st_size}]


def test_what_cannot_be_done_is_two_lines_and_leaves_nothing(latcli, stored, work):
    for words, code, message in [
        (["--markdown", "no/such/folder/r.md"], 1, "cannot be written"),
        (["--csv", "."], 2, "is a folder"),
        (["--png", "file"], 1, "cannot be written"),
        (["--csv", "file/r.csv"], 1, "cannot be written"),
        (["--markdown", "good.md", "--csv", "none/r.csv"], 1, "cannot be written"),
    ]:
        (work / "file").write_text("mine")
        done = latcli("report", "--store", stored[0], *words)
        assert (done.code, message in done.error[0]) == (code, True)
        assert names_in(work) == {"file"}
        assert (work / "file").read_text() == "mine"


def test_options_that_do_not_go_together_are_refused(tmp_path):
    for options, json in [
        ({"html": Path("-"), "csv": Path("-")}, False),
        ({"csv": Path("-")}, True),
        ({"png": Path("-")}, False),
        ({"open": True}, False),
        ({"open": True, "html": Path("-")}, False),
        ({"csv": Path("a"), "markdown": Path("a")}, False),
        ({"compare": True, "runs": ("a",)}, False),
        ({"compare": True, "runs": ("a", "b"), "best": True}, False),
        ({"compare": True, "runs": ("a", "b"), "csv": Path("c")}, False),
    ]:
        with pytest.raises(UsageError):
            report.check(ReportOptions(**options), tmp_path, json=json)


def test_a_store_that_is_empty_or_missing(latcli, tmp_path):
    with Store.open(tmp_path / "empty"):
        pass
    for name in ("typo", "empty"):
        error, hint = latcli("report", "--store", tmp_path / name).error
        assert ("there are no runs" in error, "latcli attack PHOTO" in hint) == (True, True)


@pytest.mark.parametrize("name", ["latcli.db", "latcli.db-wal", "RUN/matrix.json", "RUN/report.md", "link/matrix.json"])
def test_a_report_never_replaces_what_it_is_made_of(tmp_path, name):
    folder = tmp_path / "runs"
    with Store.open(folder) as store:
        run = train(store, "natural", 0)
        run.write_artifact("matrix.json", b"{}", "matrix")
    (tmp_path / "link").symlink_to(run.folder)
    path = tmp_path / name if name.startswith("link") else folder / name.replace("RUN", run.id)
    kept = path.read_bytes() if path.exists() else None
    with pytest.raises(UsageError, match="belongs to the store"):
        write(folder, markdown=path)
    assert (path.read_bytes() if path.exists() else None) == kept
    write(folder, markdown=folder / "report.md")  # beside the runs it is welcome
    assert (folder / "report.md").read_text().startswith("# Report")


def test_what_fails_half_way_leaves_the_file_that_was_there(stored, work, monkeypatch):
    def half(name, document):
        yield "half of it"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("latcli.commands.report._pieces", half)
    (work / "report.md").write_text("the last one")
    with pytest.raises(LatcliError, match="no space left"):
        write(stored[0], markdown=work / "report.md")
    assert {path.name: path.read_text() for path in work.iterdir()} == {"report.md": "the last one"}


def test_a_pipe_is_written_into_and_stays_a_pipe(stored, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        write(stored[0], csv=pipe)
        if not pipe.is_fifo():
            reader.kill()  # it would wait for ever
        assert reader.communicate()[0].startswith(b"kind,run,")
    assert pipe.is_fifo()


@pytest.mark.parametrize("opens", [True, False])
def test_the_page_is_written_then_opened(stored, tmp_path, monkeypatch, opens):
    page, opened, notes = tmp_path / "a page.html", [], io.StringIO()

    def browser(address):
        assert page.exists()
        opened.append(address)
        return opens

    monkeypatch.setattr("webbrowser.open", browser)
    report.run(ReportOptions(html=page, open=True), Session(store=stored[0], stderr=notes))
    assert opened == [page.as_uri()]
    assert ("no browser" in notes.getvalue()) is not opens
