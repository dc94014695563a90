"""Options from TOML files: where they are looked for, what they may say; must not know Typer or any one command.

A key is an option's long name without its dashes. Keys at the top hold for every command that has the option, those
in `[attack]` or `[runs.list]` for one command. Paths are relative to the working directory, as on the command line.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from latcli.errors import UsageError

PROJECT_FILE = Path("latcli.toml")

#: Nobody has so many options; a longer file is none of ours.
_MOST_BYTES = 1 << 18


@dataclass(frozen=True)
class Option:
    """What a file may set: the parameter's name in Python, and whether it is a switch, a list or a single value."""

    name: str
    takes: Literal["switch", "list", "value"]


@dataclass(frozen=True)
class Command:
    """What the files may speak of: a command's options by key, a group's commands by name."""

    options: Mapping[str, Option]
    commands: Mapping[str, Command]

    def options_below(self) -> dict[str, Option]:
        """Its own options and those of every command below it."""
        found = dict(self.options)
        for command in self.commands.values():
            found |= command.options_below()
        return found


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


def settings_for(path: tuple[str, ...], root: Command, files: list[Path]) -> dict[str, Setting]:
    """What the files set for the command at `path` (as `("runs", "list")`), by parameter name; later files win.

    Raises UsageError for a file that cannot be read, is no TOML, or has an unknown key or a value of the wrong type
    anywhere, also for another command: a slip is better told early.
    """
    found: dict[str, Setting] = {}
    for file in files:
        found |= _settings_in(_read(file), path, root, file)
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise UsageError(f"{file} is longer than {_MOST_BYTES >> 10} KiB", "name a file of options with --config")
        return tomllib.loads(data.decode())
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}", "check its permissions") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not valid TOML: it is not UTF-8 text", "save it as UTF-8") from error
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and lists in lists in lists
        hint = 'one `key = value` a line, text in quotes, as in: epsilon = "8/255"'
        raise UsageError(f"{file} is not valid TOML: {error}", hint) from error


def _settings_in(table: Mapping[str, Any], path: tuple[str, ...], root: Command, file: Path) -> dict[str, Setting]:
    target, known = root, root.options_below()
    for name in path:
        target = target.commands[name]
    reached = target.options_below()
    found: dict[str, Setting] = {}
    inner: dict[str, Setting] = {}
    for written, value in table.items():
        key = written.replace("_", "-")
        if isinstance(value, dict):
            if key not in root.commands:
                raise _unknown("command", written, root.commands, file)
            onward = path[1:] if path[:1] == (key,) else ()
            settings = _settings_in(value, onward, root.commands[key], file)
            inner |= settings if path[:1] == (key,) else {}
            continue
        if key not in known:
            raise _unknown("option", written, [*known, *(f"[{name}]" for name in root.commands)], file)
        setting = Setting(_as_typed(written, value, known[key], file), file)
        if key in reached:
            found[known[key].name] = setting
    return found | inner


def _as_typed(key: str, value: Any, option: Option, file: Path) -> str | bool | list[str]:
    """The value as the command line would hand it over; the option's own parser has the last word."""
    if option.takes == "switch":
        if isinstance(value, bool):
            return value
        raise UsageError(f"{file}: {key} is a switch, not {_shown(value)}", f"write {key} = true or {key} = false")
    if option.takes == "list":
        if isinstance(value, list):
            return [_word(key, item, file) for item in value]
        raise UsageError(f"{file}: {key} is a list, not {_shown(value)}", f'write {key} = ["…", "…"]')
    return _word(key, value, file)


def _word(key: str, value: Any, file: Path) -> str:
    if isinstance(value, str):
        # No shell stands between a file and us.
        return os.path.expanduser(value) if value.startswith("~/") else value  # noqa: PTH111
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
        return str(value)
    raise UsageError(f"{file}: {key} cannot be {_shown(value)}", "write a number, or a text in quotes")


def _shown(value: Any) -> str:
    if isinstance(value, int) and abs(value) > 1e300:  # its digits may be too many to be written down
        return "so large a number"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unknown(what: str, name: str, known: Mapping[str, Any] | list[str], file: Path) -> UsageError:
    from latcli.engine.registry import unknown_name

    error = unknown_name(what, name, known)
    return UsageError(f"{file}: {error.message}", error.hint)
