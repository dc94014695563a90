"""Options: how text becomes values, where values come from, what files may not set, and what to type to get them."""

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latcli import cli, options
from latcli.errors import UsageError
from latcli.options import AttackOptions, EvalOptions, ReproduceOptions, TrainOptions, command_words, number_text


@pytest.fixture
def user_file(tmp_path):
    """Where the fixture `latcli` says that the user's own file is."""
    file = tmp_path / "no-configuration" / "latcli" / "config.toml"
    file.parent.mkdir(parents=True)
    return file


@pytest.fixture
def seen(work, monkeypatch):
    """What commands are given, in place of being carried out."""
    found = {}

    def imported(target):
        return lambda given, session: found.update(vars(session) | vars(given), options=given)

    monkeypatch.setattr(cli, "_imported", imported)
    monkeypatch.setattr("latcli.session.Session.show", lambda *_: 0)
    return found


def test_an_epsilon_is_a_share_or_levels_and_anything_else_is_refused():
    for text, value in {"8/255": 8 / 255, "0.031": 0.031, "1": 1.0, "1/1": 1.0}.items():
        assert options.parse_epsilon(text) == value
    for text in ("", "eight", "8/", "8/0", "0", "-1/255", "1.01", "nan", "inf", "8/255/2"):
        with pytest.raises(UsageError):
            options.parse_epsilon(text)


@given(st.floats(min_value=1e-6, max_value=1.0) | st.integers(1, 254).map(lambda levels: levels / 255))
def test_a_shown_epsilon_is_the_epsilon(value):
    assert options.parse_epsilon(number_text(value)) == value
    assert (number_text(value).endswith("/255")) or not (255 * value).is_integer()


@pytest.mark.parametrize(
    "given_options",
    [
        AttackOptions(photos=("a b.jpg", "c.png"), epsilon=0.03137, box=("1,2,3,4", "5,6,7,8"), no_random_start=True),
        TrainOptions(regime="random", epsilon=0.1, steps=7, masks=Path("my masks")),
        EvalOptions(models=("7f3a",), curve=("epsilon=0.1,0.2",), restarts=3, strong=True),
        ReproduceOptions(what="hole", centers=(0.25, 1 / 3), budget="quick"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_typing_a_printed_command_gives_the_same_options(latcli, seen, given_options):
    names = {AttackOptions: "attack", TrainOptions: "train", EvalOptions: "eval", ReproduceOptions: "reproduce"}
    line = shlex.join(command_words(given_options))
    assert latcli(names[type(given_options)], *shlex.split(line)).code == 0
    assert seen["options"] == given_options


def test_the_nearest_source_wins(latcli, work, user_file, seen, monkeypatch):
    def store(*words):
        assert latcli("runs", "list", *words).code == 0
        return str(seen["store"])

    assert store() == "runs"
    user_file.write_text('store = "user"\nlimit = 3')
    assert store() == "user"
    (work / "latcli.toml").write_text('store = "project"')
    assert store() == "project"
    assert seen["limit"] == 3
    (work / "latcli.toml").write_text('store = "project"\n[runs]\nstore = "group"\n[runs.list]\nstore = "command"')
    assert store() == "command"
    assert latcli("runs", "verify").code == 0
    assert str(seen["store"]) == "group"
    (work / "other.toml").write_text("quiet = true")
    assert store("--config", "other.toml") == "user"  # it takes the place of the project's file alone
    assert seen["quiet"] is True
    monkeypatch.setenv("LATCLI_STORE", "environment")  # after the fixture has cleared it
    assert store("--store", "flag") == "flag"


def test_the_environment_lies_between_flag_and_file(latcli, work, seen, monkeypatch):
    (work / "latcli.toml").write_text("offline = true\ndata = 'file'")
    monkeypatch.setenv("LATCLI_OFFLINE", "0")
    monkeypatch.setenv("LATCLI_DATA", "environment")
    assert latcli("doctor").code == 0
    assert (seen["offline"], str(seen["data"])) == (False, "environment")


def test_values_are_read_as_the_command_line_reads_them(latcli, work, seen, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (work / "latcli.toml").write_text(
        'store = "~/runs"\nlimit = 5\n[attack]\nepsilon = "2/255"\nregions = "all,patch"\nsteps = 10\n'
        'box = ["0,0,9,9", "1,1,2,2"]\non-miss = "skip"\ncheck_success = true'
    )

    assert latcli("attack", "a.jpg").code == 0
    names = ("store", "epsilon", "regions", "steps", "box", "on_miss", "check_success")
    assert {name: seen[name] for name in names} == {
        "store": tmp_path / "runs",
        "epsilon": 2 / 255,
        "regions": ("all", "patch"),
        "steps": 10,
        "box": ("0,0,9,9", "1,1,2,2"),
        "on_miss": "skip",
        "check_success": True,
    }


SLIPS = [
    ("sede = 1", "'seed'"),
    ("[attack]\nepsilom = 1", "'epsilon'"),
    ("[atack]\nsteps = 1", "'attack'"),
    ("[runs.lst]\nlimit = 1", "'list'"),
    ("[attack]\nlimit = 1", "limit"),
    ("config = 'x.toml'", "config"),
    ("steps = true", "steps"),
    ("steps = 2026-01-01", "steps"),
    ("[attack]\nbox = '0,0,1,1'", "box = ["),
    ("[attack]\nbox = [[1, 2]]", "box"),
    ("offline = 1", "offline = true"),
    ("json = 'yes'", "json = true"),
    ("steps = 'ten'", "latcli.toml"),
    ("steps = 0", "latcli.toml"),
    ("epsilon = 8", "latcli.toml"),
    ("[attack]\non-miss = 'skp'", "latcli.toml"),
    ("epsilon = 8/255", 'epsilon = "8/255"'),
    ("epsilon", "TOML"),
    ("a = 1\na = 2", "TOML"),
    ("trust-weights = true", "--trust-weights"),
    ("classifier = 'evil:make'", "--classifier evil:make"),
    ("[train]\narchitecture = 'evil.py:make'", "--architecture evil.py:make"),
    ("[reproduce]\nclassifier = 'evil:make'", "--classifier evil:make"),
    ("a = " + "[" * 9000, "TOML"),
    (b"\xff\xfe\x00", "UTF-8"),
    (None, "cannot read"),  # a folder
]


def test_a_slip_in_a_file_is_refused_whatever_the_command(latcli, work, seen):
    file = work / "latcli.toml"
    for text, word in SLIPS:
        file.mkdir() if text is None else file.write_bytes(text if isinstance(text, bytes) else text.encode())
        outcome = latcli("attack", "a.jpg")
        assert (outcome.code, word in " ".join(outcome.error), seen) == (2, True, {}), text
        file.rmdir() if text is None else file.unlink()
    file.write_text(SLIPS[0][0])
    assert latcli("attack", "--help").code == 0


def test_code_is_named_on_the_command_line_or_in_the_users_own_file(latcli, work, user_file, seen):
    assert latcli("attack", "a.jpg", "--classifier", "mine:net").code == 0
    assert seen["classifier"] == "mine:net"
    (work / "latcli.toml").write_text("classifier = 'timm:resnet50'")  # a library's own name runs no code of others
    assert latcli("attack", "a.jpg").code == 0
    (work / "latcli.toml").unlink()
    user_file.write_text("classifier = 'mine:net'")
    assert latcli("attack", "a.jpg").code == 0
    assert seen["classifier"] == "mine:net"
