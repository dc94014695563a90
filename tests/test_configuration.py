"""Where an option's value comes from: flag, environment, project file, user file, default."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer

from latcli import process
from latcli.cli_options import Epsilon, with_session
from latcli.session import Session

Seen = dict[str, object]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder of a user without any settings."""
    for name in ("LATCLI_STORE", "LATCLI_DATA", "LATCLI_OFFLINE", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    file = tmp_path / "home" / ".config" / "latcli" / "config.toml"
    file.parent.mkdir(parents=True)
    return file


@pytest.fixture
def seen() -> Seen:
    return {}


@pytest.fixture
def run(seen: Seen) -> Callable[..., int]:
    """A small program with latcli's own options, whose commands remember what they were given."""
    app = typer.Typer()
    group = typer.Typer()
    app.add_typer(group, name="runs")

    @app.command()
    @with_session
    def attack(
        session: Session,
        epsilon: Epsilon = 8 / 255,
        steps: Annotated[int, typer.Option(min=1)] = 40,
        box: Annotated[list[str] | None, typer.Option()] = None,
        on_miss: Annotated[Literal["skip", "fail"], typer.Option()] = "fail",
        check_success: Annotated[bool, typer.Option("--check-success")] = False,
    ) -> None:
        seen.update(vars(session))
        seen.update(epsilon=epsilon, steps=steps, box=box, on_miss=on_miss, check_success=check_success)

    @group.command("list")
    @with_session
    def list_runs(session: Session, limit: Annotated[int, typer.Option()] = 20) -> None:
        seen.update(vars(session))
        seen.update(limit=limit)

    return lambda *arguments: process.run(app, list(arguments))


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    """The error and the hint, which must be all there is."""
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert [line.partition(":")[0] for line in lines] == ["error", "hint"]
    return captured.err


def test_the_nearer_source_wins(
    folder: Path, user_file: Path, run: Callable[..., int], seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("attack") == 0
    assert seen["store"] == Path("runs")

    user_file.write_text('store = "from-user"\ndata = "from-user"')
    assert run("attack") == 0
    assert (seen["store"], seen["data"]) == (Path("from-user"), Path("from-user"))

    (folder / "latcli.toml").write_text('store = "from-project"')
    assert run("attack") == 0
    assert (seen["store"], seen["data"]) == (Path("from-project"), Path("from-user"))

    monkeypatch.setenv("LATCLI_STORE", "from-environment")
    assert run("attack") == 0
    assert seen["store"] == Path("from-environment")

    assert run("attack", "--store", "from-flag") == 0
    assert seen["store"] == Path("from-flag")


def test_config_takes_the_place_of_the_project_file_only(
    folder: Path, user_file: Path, run: Callable[..., int], seen: Seen
) -> None:
    user_file.write_text("seed = 7")
    (folder / "latcli.toml").write_text('store = "from-project"')
    (folder / "other.toml").write_text('data = "from-other"')

    assert run("attack", "--config", "other.toml") == 0

    assert (seen["store"], seen["data"], seen["seed"]) == (Path("runs"), Path("from-other"), 7)


def test_the_user_file_is_looked_for_where_xdg_says(
    folder: Path, tmp_path: Path, run: Callable[..., int], seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "elsewhere" / "latcli" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text("seed = 11")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "elsewhere"))

    assert run("attack") == 0
    assert seen["seed"] == 11


def test_a_table_is_for_its_command_and_beats_the_top(folder: Path, run: Callable[..., int], seen: Seen) -> None:
    (folder / "latcli.toml").write_text("seed = 1\n[attack]\nseed = 2\n[runs]\nquiet = true\n[runs.list]\nlimit = 3")

    assert run("attack") == 0
    assert (seen["seed"], seen["quiet"]) == (2, False)
    assert run("runs", "list") == 0
    assert (seen["seed"], seen["quiet"], seen["limit"]) == (1, True, 3)


def test_a_top_key_reaches_only_commands_that_have_it(folder: Path, run: Callable[..., int], seen: Seen) -> None:
    (folder / "latcli.toml").write_text("limit = 5")

    assert run("attack") == 0
    assert run("runs", "list") == 0
    assert seen["limit"] == 5


def test_values_are_read_as_the_command_line_reads_them(folder: Path, run: Callable[..., int], seen: Seen) -> None:
    (folder / "latcli.toml").write_text(
        '[attack]\nepsilon = "2/255"\nsteps = 10\nbox = ["0,0,9,9", "1,1,2,2"]\non-miss = "skip"\ncheck-success = true'
    )
    assert run("attack") == 0
    assert (seen["epsilon"], seen["steps"], seen["on_miss"]) == (2 / 255, 10, "skip")
    assert (seen["box"], seen["check_success"]) == (["0,0,9,9", "1,1,2,2"], True)

    (folder / "latcli.toml").write_text("[attack]\nepsilon = 0.05\non_miss = 'skip'")
    assert run("attack") == 0
    assert (seen["epsilon"], seen["on_miss"]) == (0.05, "skip")


def test_the_environment_can_switch_off_what_a_file_switches_on(
    folder: Path, run: Callable[..., int], seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "latcli.toml").write_text("offline = true")
    assert run("attack") == 0
    assert seen["offline"] is True

    monkeypatch.setenv("LATCLI_OFFLINE", "0")
    assert run("attack") == 0
    assert seen["offline"] is False


def test_a_home_is_what_the_shell_would_make_of_it(
    folder: Path, tmp_path: Path, run: Callable[..., int], seen: Seen
) -> None:
    (folder / "latcli.toml").write_text('store = "~/runs"')

    assert run("attack") == 0
    assert seen["store"] == tmp_path / "home" / "runs"


@pytest.mark.parametrize(
    ("text", "error", "hint"),
    [
        ("sede = 1", "latcli.toml: there is no option called 'sede'", "did you mean 'seed'?"),
        ("[attack]\nepsilom = 1", "no option called 'epsilom'", "did you mean 'epsilon'?"),
        ("[atack]\nsteps = 1", "no command called 'atack'", "did you mean 'attack'?"),
        ("[runs.lst]\nlimit = 1", "no command called 'lst'", "did you mean 'list'?"),
        ("[attack]\nlimit = 1", "no option called 'limit'", "known:"),
        ("config = 'x.toml'", "no option called 'config'", "known:"),
        ("steps = true", "steps cannot be True", "a number, or a text"),
        ("steps = 2026-01-01", "steps cannot be", "a number, or a text"),
        ("[attack]\nbox = '0,0,1,1'", "box is a list", "write box = ["),
        ("[attack]\nbox = [[1, 2]]", "box cannot be [1, 2]", "a number, or a text"),
        ("offline = 1", "offline is a switch, not 1", "offline = true"),
        ("json = 'yes'", "json is a switch", "json = true"),
        ("steps = 'ten'", "invalid value for '--steps'", "(it is set in latcli.toml)"),
        ("steps = 0", "invalid value for '--steps'", "(it is set in latcli.toml)"),
        ("epsilon = 8", "epsilon '8' is not over 0", "(it is set in latcli.toml)"),
        ("[attack]\non-miss = 'skp'", "invalid value for '--on-miss'", "(it is set in latcli.toml)"),
        ("epsilon = 8/255", "latcli.toml is not valid TOML", 'epsilon = "8/255"'),
        ("epsilon", "latcli.toml is not valid TOML", "in quotes"),
        ("a = 1\na = 2", "latcli.toml is not valid TOML", "in quotes"),
    ],
)
def test_a_slip_in_a_file_is_a_usage_error(
    folder: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str], text: str, error: str, hint: str
) -> None:
    (folder / "latcli.toml").write_text(text)

    assert run("attack") == 2

    told = refusal(capsys).splitlines()
    assert error in told[0]
    assert hint in told[1]


def test_a_slip_for_another_command_is_told_as_well(
    folder: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "latcli.toml").write_text("[attack]\nstep = 1")

    assert run("runs", "list") == 2
    assert "did you mean 'steps'?" in refusal(capsys)


def test_a_refused_environment_variable_is_named(
    folder: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATCLI_OFFLINE", "perhaps")

    assert run("attack") == 2
    assert "LATCLI_OFFLINE" in refusal(capsys)


def test_a_named_file_must_be_there(folder: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("attack", "--config", "absent.toml") == 2
    assert "no such file: absent.toml" in refusal(capsys)


def test_a_file_that_is_no_text_is_told(
    folder: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "latcli.toml").write_bytes(b"\xff\xfe\x00")

    assert run("attack") == 2
    assert "not UTF-8" in refusal(capsys)


def test_a_folder_in_place_of_a_file_is_told(
    folder: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "latcli.toml").mkdir()

    assert run("attack") == 2
    assert "cannot read latcli.toml" in refusal(capsys)


def test_help_needs_no_sound_file(folder: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "latcli.toml").write_text("nonsense")

    assert run("attack", "--help") == 0
    assert "--epsilon" in capsys.readouterr().out
