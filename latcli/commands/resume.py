"""Runs that were cut off: whether one can be resumed with these options, what it was started with, what to type.

A run is resumed with the options that it was started with. Where its data, masks and weights lie may change: that they
are the same is a matter of fingerprints, which are compared once the files are open.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from latcli.engine import registry
from latcli.engine.devices import explained
from latcli.errors import Terminated, UsageError
from latcli.reporting.text import counted
from latcli.results import DocumentError, read, to_json
from latcli.session import Session
from latcli.store.store import Run, RunRow, Store

T = TypeVar("T")

#: Options that say where files lie. Their contents are compared by fingerprint, so a moved folder may be named anew.
PLACES = ("mask", "masks", "classifier_weights", "detector_weights")
#: Options that name one file, whose bytes are compared.
FILES = ("labels", "class_names")
_FOLDER, _SHA256 = "folder:", "_sha256"


# options as a configuration has them


def plainly(values: Mapping[str, Any]) -> dict[str, Any]:
    """Options by name, in the form that a run's configuration has: paths that are there are absolute."""
    return {
        name: to_json(value.absolute() if isinstance(value, Path) and value.exists() else value)
        for name, value in values.items()
    }


def kept_options(options: T, row: RunRow, settings: type | None = None) -> T:
    """The options that the run was started with, beside its `settings`; where files lie may be given anew.

    Permission to run code in weights is never a run's: it is given anew each time. Raises UsageError for a
    configuration that is damaged and for files of other contents than before, ImageError for those that cannot be read.
    """
    config, default = row.config, type(options)()
    elsewhere = {field.name for field in fields(settings)} if settings else set()
    known = vars(options).keys() & config.keys() - elsewhere
    kept = {name: config[name] for name in known if getattr(options, name) == getattr(default, name)}
    found = read_config(type(options), row, plainly(vars(options)) | kept)
    for name, sha256 in contents_of(found).items():
        if row.config.get(name, sha256) != sha256:
            path = getattr(found, name.removesuffix(_SHA256))
            raise UsageError(
                f"{path} has other contents than when the run {row.id} was started",
                "put the same file back, or start a new run",
            )
    return found


def contents_of(options: Any) -> dict[str, str | None]:
    """The sha256 of each of `FILES` that these options can name, as a configuration has it. Raises ImageError."""
    from latcli.engine.images import sha256_of  # not above: what only shows runs needs no torch

    paths = {name: getattr(options, name) for name in FILES if hasattr(options, name)}
    return {f"{name}{_SHA256}": None if path is None else sha256_of(path) for name, path in paths.items()}


def read_config(kind: type[T], row: RunRow, values: Mapping[str, Any] | None = None) -> T:
    """What the run's configuration, or else `values`, say of it. Raises UsageError for one that is damaged."""
    try:
        return read(kind, row.config if values is None else values)
    except DocumentError as error:
        raise UsageError(f"the configuration of {row.id} is damaged: {error}", "start a new run") from error


# whether a run can be resumed


def resumable_run(
    store: Store, name: str, command: str, given: Mapping[str, Any], session: Session, named: Container[str | None]
) -> RunRow:
    """The run of that name, if it is one of `command`, has not finished, and was started with the `given` options.

    Raises UsageError otherwise, with all differences, and for code of the user's own that is not among the models
    `named` now: what lies in a store must not run code by itself, since a store may come from somebody else. Raises
    StoreError where the store fails.
    """
    row = store.find_run(name)
    if row.command != command:
        raise UsageError(
            f"{row.id} is a run of {row.command}, not of {command}", f"`latcli runs list --command {command}`"
        )
    if row.status == "completed":
        raise UsageError(f"{row.id} is already completed", f"`latcli runs show {row.id[-4:]}` shows what it left")
    if row.status == "running" and store.is_alive(row.id):
        raise UsageError(f"{row.id} is running in another process", "wait for its end, or stop it first")
    asked = dict(given)
    if session.precision != "auto":
        asked["precision"] = session.precision
    if session.seed or _typed(session, "--seed"):
        asked["seed"] = session.seed
    was = row.config | {"seed": row.seed}
    differences = []
    for name, value in asked.items():
        before, is_folder = was.get(name), str(value).startswith(_FOLDER)
        if name in PLACES:
            is_same = (value is None) == (before is None)
        else:
            is_same = value == before or (name == "dataset" and is_folder and str(before).startswith(_FOLDER))
        if not is_same:
            both = ("not given" if one is None else one for one in (value, before))
            texts = [f"{one:g}" if isinstance(one, float) else str(one) for one in both]
            differences.append(f"--{name.replace('_', '-')} {texts[0]} (was {texts[1]})")
    if differences:
        raise UsageError(
            f"the run {row.id} was started with different options: {', '.join(differences)}",
            "resume it without these options, or start a new run with them",
        )
    if missing := [code for code in _code_of(row) if code not in named]:
        raise UsageError(
            f"{row.id} runs the code {missing[0]}, and the code that a stored run names is not run automatically",
            f"if you trust it, name it again: {resume_command(row, session)}",
        )
    return row


@contextmanager
def running(
    store: Store,
    row: RunRow | None,
    command: str,
    session: Session,
    at: Callable[[], str] = lambda: "was interrupted",
    **about: Any,
) -> Iterator[Run]:
    """The run of that row, resumed, else a new one `about` which these things are known. Raises as the store does.

    What fails in the block because of the machine is explained. Where the block is interrupted, the user is told how
    the run is resumed, and `at` says how far it came.
    """
    if row is None:
        started = store.start_run(command, **session.of_run(), **about)
    else:
        started = store.resume_run(row.id, argv=list(session.argv), name=session.name, tags=session.tag)
    with started as stored, explained():
        try:
            yield stored
        except (KeyboardInterrupt, Terminated):
            session.note(f"run {stored.id} {at()}; to continue: {resume_command(stored.row, session)}")
            raise


def dataset_of(row: RunRow, given: str | None) -> str:
    """The name that opens the run's data set: the one `given` now, else where the run found it.

    A run keeps its folder by the absolute path, so that it is found from any working directory. Raises UsageError where
    that folder is gone.
    """
    name = given or str(row.config.get("dataset", ""))
    if given is None and name.startswith(_FOLDER) and not Path(name.removeprefix(_FOLDER)).is_dir():
        raise UsageError(
            f"the folder {name.removeprefix(_FOLDER)} of the run {row.id} no longer exists",
            f"if it was moved, add --dataset {_FOLDER}NEW_PATH",
        )
    return name


def use_threads(count: int, session: Session) -> None:
    """As many threads as the run had before: the order in which a CPU adds depends on them."""
    import torch  # what only shows or names runs does without it

    if torch.get_num_threads() != count:
        session.note(f"using {counted(count, 'thread')}, as the run did before")
        torch.set_num_threads(count)


# what to type


#: Options that say where and how a command runs.
_WHERE = ("store", "data", "device", "offline")
#: Options that a run does not keep, and that are given again.
_REPEATED = ("--logger", "--devices", "--nodes")
#: The option that names a run's model; models of eval have none.
_NAMING = {"attack": ["--classifier"], "train": ["--architecture"]}


def resume_command(row: RunRow, session: Session) -> str:
    """What a user types to resume the run from the same working directory; what allows code to run is given again."""
    code = _code_of(row)
    allowed = [*_NAMING.get(row.command, []), *code] if code else []
    allowed += ["--trust-weights"] if "--trust-weights" in session.argv else []
    again = [*_typed(session, *_REPEATED), *session.words(*_WHERE)]
    return shlex.join(["latcli", row.command, *allowed, "--resume", row.id.rpartition("-")[2], *again])


def _typed(session: Session, *names: str) -> list[str]:
    """These options and their values, as they were typed."""
    found: list[str] = []
    for place, word in enumerate(session.argv):
        if word.partition("=")[0] in names:
            found += [word] if "=" in word else session.argv[place : place + 2]
    return found


def _code_of(row: RunRow) -> list[str]:
    """The names among a run's models that stand for the user's code, as `module:function` does."""
    entries = row.config.get("entries")
    sources = [one.get("source") for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []
    names = [str(one) for one in (row.config.get("classifier"), row.config.get("architecture"), *sources)]
    return [name for name in names if not name.endswith(".safetensors") and registry.names_code(name)]


def next_command(words: str, session: Session) -> str:
    """`latcli WORDS` on this session's store and data."""
    return " ".join(["latcli", words, shlex.join(session.words(*_WHERE))]).strip()
