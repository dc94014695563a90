"""Options from TOML files: where they are looked for, and what they may set.

A key is an option's long name without its dashes. Keys at the top hold for every command that has the option, those
in `[attack]` or `[runs.list]` for one command. Paths are relative to the working directory, as on the command line.

A project's file comes with a project's folder, which may be anybody's: it cannot name code to run. The user's own file
can.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin

from latcli.engine.registry import names_code, unknown_name
from latcli.errors import UsageError
from latcli.options import CODE, TYPED, Field

PROJECT_FILE = Path("latcli.toml")

#: The options of every command, by its path: `("attack",)`, `("runs", "list")`.
Shape = Mapping[tuple[str, ...], Sequence[Field]]


@dataclass(frozen=True)
class Setting:
    """A value as it would be typed on the command line, and the file that it comes from."""

    value: str | bool | list[str]
    origin: Path


def user_file() -> Path | None:
    """The user's own file, whether or not it exists; None where the user has no home."""
    folder = os.environ.get("XDG_CONFIG_HOME", "")
    if Path(folder).is_absolute():
        return Path(folder, "latcli", "config.toml")
    try:
        return Path.home() / ".config" / "latcli" / "config.toml"
    except RuntimeError:
        return None


def files_in_use(project_file: Path | None = None) -> list[Path]:
    """The files that are read, the weakest first; `project_file` takes the place of the one in the working folder.

    Raises UsageError where `project_file` is given and does not exist.
    """
    if project_file is not None and not os.access(project_file, os.F_OK):
        raise UsageError(f"no such file: {project_file}", "check the path given with --config")
    candidates = [user_file(), project_file or PROJECT_FILE]
    return [file for file in candidates if file is not None and os.access(file, os.F_OK)]


def settings_for(path: tuple[str, ...], shape: Shape, files: Sequence[Path]) -> dict[str, Setting]:
    """What the files set for the command at `path`, by parameter name; later files win.

    Raises UsageError for a file that cannot be read, is no TOML, or has an unknown key or a value of the wrong type
    anywhere, also for another command: a slip is better reported early.
    """
    found: dict[str, Setting] = {}
    for file in files:
        tables = dict(_tables(_read(file), shape, file))
        for table in sorted(tables, key=len):  # the same key at the top and in a command's table: the table is nearer
            below = [command for command in shape if command[: len(table)] == table]
            known = {one.key: one for command in below for one in shape[command]}
            for key, value in tables[table].items():
                if key not in known:
                    inner = sorted({f"[{command[len(table)]}]" for command in below if command != table})
                    raise _unknown("option", key, [*known, *inner], file)
                setting = Setting(_as_typed(key, value, known[key], file), file)
                if path in below and key in {one.key for one in shape[path]}:
                    found[known[key].name] = setting
    return found


def _tables(
    values: Mapping[str, Any], shape: Shape, file: Path, table: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every table, by the command or group that it is of, with its keys and values."""
    names = {written: written.replace("_", "-") for written in values}
    yield table, {names[written]: value for written, value in values.items() if not isinstance(value, dict)}
    below = {command[len(table)] for command in shape if command[: len(table)] == table and command != table}
    for written, value in values.items():
        if isinstance(value, dict):
            if names[written] not in below:
                raise _unknown("command", written, sorted(below), file)
            yield from _tables(value, shape, file, (*table, names[written]))


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}", "check its permissions") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, numbers of thousands of digits, lists in lists
        hint = 'one `key = value` a line as UTF-8, text in quotes, as in: epsilon = "8/255"'
        raise UsageError(f"{file} is not valid TOML: {error}", hint) from error


def _as_typed(key: str, value: Any, field: Field, file: Path) -> str | bool | list[str]:
    """The value as the command line would hand it over; the option's own parser has the last word."""
    if TYPED in field.marks:
        raise UsageError(f"{file}: {key} cannot be set in a file", f"give --{key} on the command line, each time")
    if field.type is bool:
        if isinstance(value, bool):
            return value
        raise UsageError(f"{file}: {key} is a switch, not {_shown(value)}", f"write {key} = true or {key} = false")
    if get_origin(field.type) is tuple and field.parse is None:  # else one text, as on the command line
        if isinstance(value, list):
            return [_word(key, item, file) for item in value]
        raise UsageError(f"{file}: {key} is a list, not {_shown(value)}", f'write {key} = ["…", "…"]')
    word = _word(key, value, file)
    if CODE in field.marks and file != user_file() and names_code(word):
        raise UsageError(
            f"{file}: {key} = '{word}' would run code that came with this folder",
            f"if you trust it, give --{key} {word} on the command line",
        )
    return word


def _word(key: str, value: Any, file: Path) -> str:
    if isinstance(value, str):
        # No shell stands between a file and us.
        return os.path.expanduser(value) if value.startswith("~/") else value  # noqa: PTH111
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise UsageError(f"{file}: {key} cannot be {_shown(value)}", "write a number, or a text in quotes")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unknown(what: str, name: str, known: Sequence[str], file: Path) -> UsageError:
    error = unknown_name(what, name, known)
    return UsageError(f"{file}: {error.message}", error.hint)
