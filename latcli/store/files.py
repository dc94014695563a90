"""Files that are whole or not there at all, names that cannot leave their folder, and locks that end with a process."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from latcli.errors import StoreError
from latcli.results import legible

#: What a run's folder holds besides artifacts.
RUN_JSON, LOG, LOCK = "run.json", "log.txt", "lock"

_TEMPORARY = ".latcli-*.tmp"


@contextmanager
def storage_errors(path: Path, option: str = "--store DIR") -> Iterator[None]:
    """Turn the operating system's refusals about a file or folder into StoreError; `option` names another place."""
    try:
        yield
    except OSError as error:
        hint = {
            errno.ENOSPC: f"free some space, or keep it elsewhere with {option}",
            errno.ENAMETOOLONG: f"rename the photo to something shorter, or take a shorter {option}",
        }.get(error.errno or 0, f"check the folder and its disk, or name one that you can write to with {option}")
        why = (error.strerror or str(error)).lower()
        raise StoreError(f"{legible(str(path))} cannot be read or written: {why}", hint) from error


# whole files


def write_whole(path: Path, pieces: Iterable[bytes]) -> int:
    """Write a file so that a crash or a full disk leaves either all of it or what was there before; returns its size.

    Raises OSError, and what `pieces` raises.
    """
    with _beside(path, pieces) as (temporary, size):
        temporary.replace(path)
    _sync_folder(path.parent)
    return size


@contextmanager
def _beside(path: Path, pieces: Iterable[bytes]) -> Iterator[tuple[Path, int]]:
    """A whole file beside `path`, safe on the disk, and its size; removed where the block fails.

    Raises OSError, and what `pieces` raises.
    """
    # A short name: that of the file itself may be as long as the file system takes.
    temporary = path.with_name(_TEMPORARY.replace("*", secrets.token_hex(8)))
    try:
        with temporary.open("xb") as file:
            size = sum(map(file.write, pieces))
            file.flush()
            os.fsync(file.fileno())
        yield temporary, size
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class StagedFile:
    """A file of a run that is whole, under the name `temporary` beside its own; `Run.keep` puts it in its place.

    kind: what it is; image: the sha256 of the photo that it is of; sha256 and size are its own.
    """

    name: str
    kind: str
    image: str | None
    sha256: str
    size: int
    temporary: str


def stage(folder: Path, name: str, data: bytes, kind: str, image: str | None = None) -> StagedFile:
    """Write a file of a run, which any process may do: only its row needs the database.

    `name` may lead into subfolders, which are made. Raises StoreError for a name that leads out of the folder, and
    where the file cannot be written.
    """
    name = legible(name)
    path = artifact_path(folder, name)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _beside(path, [data]) as (temporary, size):
            return StagedFile(name, kind, image, hashlib.sha256(data).hexdigest(), size, temporary.name)


@contextmanager
def put_in_place(folder: Path, files: Sequence[StagedFile]) -> Iterator[None]:
    """Give staged files their names; where the block fails, those that are new go again. Raises StoreError."""
    paths = {artifact_path(folder, file.name): file for file in files}
    new = [path for path in paths if not path.exists()]
    try:
        with storage_errors(folder):
            for path, file in paths.items():
                path.with_name(file.temporary).replace(path)
            for parent in {path.parent for path in paths}:
                _sync_folder(parent)
        yield
    except BaseException:
        for path in [*new, *(path.with_name(file.temporary) for path, file in paths.items())]:
            with suppress(OSError):
                path.unlink()
        raise


def remove_unfinished(folder: Path) -> None:
    """Remove unfinished files of a killed process from a run's folder."""
    for path in folder.rglob(_TEMPORARY):
        with suppress(OSError):
            path.unlink()


def sha256_of_file(path: Path) -> str:
    """Hex sha256 of a file, read in pieces. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make a rename in the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot sync a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


# names, faults and locks


def artifact_path(folder: Path, name: str) -> Path:
    """Where a file of that name lies in a run's folder; links are followed only as long as they stay inside.

    Raises StoreError for a name that leads out of the folder, or is not for artifacts.
    """
    path, plain = folder / name, PurePosixPath(name)
    with suppress(OSError, RuntimeError, ValueError):  # a circle of links; a null character
        reserved = plain.parts[:1] in ((RUN_JSON,), (LOG,), (LOCK,)) or plain.match(_TEMPORARY)
        if folder.resolve() in path.resolve().parents and not reserved:
            return path
    raise StoreError(
        f"'{legible(name)}' cannot be the name of a file of the run {folder.name}",
        "use a plain file name, or a relative path that stays inside the run's folder",
    )


#: What is wrong with a file, as `results.Problem` has it, and in words.
Fault = tuple[str, str]


def fault_of(folder: Path, name: str, size: int, sha256: str | None) -> Fault | None:
    """What is wrong with a file of a run's folder, and in words; None where it is as it was written.

    With a `sha256` of None it is not read: only that it is there and has its size is checked.
    """
    try:
        path = artifact_path(folder, name)
    except StoreError:
        return "outside", "it leads out of the run's folder, and was not followed"
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
            return "changed", "it is no longer a plain file"
        if found.st_size != size:
            return "changed", f"it has {found.st_size} bytes instead of {size}"
        if sha256 is not None and sha256_of_file(path) != sha256:
            return "changed", "its sha256 is another"
    except (FileNotFoundError, NotADirectoryError):
        return "missing", "it is gone"
    except OSError as error:
        return "unreadable", (error.strerror or str(error)).lower()
    return None


def is_locked(path: Path) -> bool:
    """Whether a living process, this one included, holds filelock's lock on the file. Raises OSError.

    It is asked with a shared lock, which does not block others that ask at the same time, and works on read-only
    media; filelock itself has exclusive ones alone.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
