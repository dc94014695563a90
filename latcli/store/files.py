"""Files that are whole or not there at all, names that cannot leave their folder, and locks that end with a process."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
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


@contextmanager
def whole_file(path: Path, pieces: Iterable[bytes]) -> Iterator[Callable[[], None]]:
    """Write a file beside `path`; the function that the block is given puts it in its place.

    A crash or a full disk leaves either all of it or what was there before. Raises OSError, and what `pieces` raises.
    """
    # A short name: that of the file itself may be as long as the file system takes.
    temporary = path.with_name(_TEMPORARY.replace("*", secrets.token_hex(8)))

    def put_in_place() -> None:
        temporary.replace(path)
        _sync_folder(path.parent)

    try:
        with temporary.open("xb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        yield put_in_place
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_whole(path: Path, data: bytes, option: str = "--store DIR") -> None:
    """Write a file and its folder so that either all of it is there or what was there before. Raises StoreError."""
    with storage_errors(path, option):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, [data]) as put_in_place:
            put_in_place()


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
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


# names


def artifact_path(folder: Path, name: str) -> Path:
    """Where a file of that name lies in a run's folder; links are followed only as long as they stay inside.

    Raises StoreError for a name that leads out of the folder, or is not for artifacts.
    """
    plain = PurePosixPath(name)
    usable = (
        name == str(plain)
        and "\0" not in name
        and not plain.is_absolute()
        and plain.parts
        and ".." not in plain.parts
        and plain.parts[0].casefold() not in (RUN_JSON, LOG, LOCK)
        and not plain.match(_TEMPORARY)
    )
    path = folder / plain
    if usable and not folder.is_symlink() and _stays_inside(path, folder):
        return path
    raise StoreError(
        f"'{legible(name)}' cannot be the name of a file of the run {folder.name}",
        "use a plain file name, or a relative path that stays inside the run's folder",
    )


def _stays_inside(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a link that leads to itself
        return False


# locks


def is_locked(path: Path) -> bool:
    """Whether a living process, this one included, holds filelock's lock on the file. Raises OSError.

    It is asked with a shared lock, which does not block others that ask at the same time, and works on read-only
    media; filelock itself has exclusive ones alone.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
