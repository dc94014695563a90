"""Options from TOML files: where they are looked for, and what they may set.

A key is an option's long name without its dashes. Keys at the top hold for every command that has the option, those
in `[attack]` or `[runs.list]` for one command. Paths are relative to the working directory, as on the command line.

A project's file comes with a project's folder, which may be anybody's: it cannot name code to run. The user's own file
can.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
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

    def take(values: Mapping[str, Any], table: tuple[str, ...], file: Path) -> None:
        """What a command's or a group's table says, then those in it, which are nearer."""
        below = [command for command in shape if command[: len(table)] == table]
        known = {one.key: one for command in below for one in shape[command]}
        inner = sorted({command[len(table)] for command in below if command != table})
        for key, value in values.items():
            name = key.replace("_", "-")
            if isinstance(value, dict):
                if name not in inner:
                    raise _unknown("command", key, inner, file)
            elif name not in known:
                raise _unknown("option", name, [*known, *(f"[{one}]" for one in inner)], file)
            else:
                setting = Setting(_as_typed(name, value, known[name], file), file)
                if path in below and name in [one.key for one in shape[path]]:
                    found[known[name].name] = setting
        for key, value in values.items():
            if isinstance(value, dict):
                take(value, (*table, key.replace("_", "-")), file)

    for file in files:
        take(_read(file), (), file)
    return found


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
