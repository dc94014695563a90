"""Files that are whole or not there at all, and names that cannot leave their folder; must not know the database."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath

from latcli.errors import StoreError
from latcli.store.values import legible

#: What a run's folder holds besides artifacts.
RUN_JSON = "run.json"
LOG = "log.txt"
LOCK = "lock"
_RESERVED = frozenset({RUN_JSON, LOG, LOCK})

_TEMPORARY_PREFIX = ".latcli-"
_TEMPORARY_SUFFIX = ".tmp"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FORBIDDEN = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


def storage_error(error: OSError, path: Path) -> StoreError:
    """The operating system's refusal as two lines for a user."""
    reason = (error.strerror or str(error)).lower()
    message = f"{legible(str(path))} cannot be read or written: {reason}"
    if error.errno in _FULL:
        return StoreError(message, "free some space, or keep the runs elsewhere with --store DIR")
    if error.errno in _FORBIDDEN:
        return StoreError(message, "name a folder that you may write with --store DIR")
    if error.errno == errno.ENAMETOOLONG:
        return StoreError(message, "rename the photo to something shorter, or take a shorter --store DIR")
    return StoreError(message, "check the device it lies on, or keep the runs elsewhere with --store DIR")


def is_temporary(name: str) -> bool:
    """Whether the file name is one that only an unfinished write has."""
    return name.startswith(_TEMPORARY_PREFIX) and name.endswith(_TEMPORARY_SUFFIX)


def temporary_beside(path: Path) -> Path:
    """A fresh name in the folder of `path`; it does not grow with the file's own name, which may be of full length."""
    return path.with_name(f"{_TEMPORARY_PREFIX}{secrets.token_hex(8)}{_TEMPORARY_SUFFIX}")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a crash or a full disk leaves either all of it or what was there before.

    Raises StoreError where the file cannot be written; nothing half-written stays.
    """
    try:
        replace_whole(path, [data])
    except OSError as error:
        raise storage_error(error, path) from error


def replace_whole(path: Path, pieces: Iterable[bytes]) -> None:
    """As `write_whole`, for pieces that are written as they come; what is raised while they are made leaves no file.

    Raises OSError where the file cannot be written.
    """
    temporary = temporary_beside(path)
    try:
        with temporary.open("xb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


def sync_folder(folder: Path) -> None:
    """Make a rename in the folder survive a power cut. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def artifact_path(folder: Path, name: str) -> Path:
    """Where an artifact of that name lies in a run's folder. Raises StoreError for a name that leads anywhere else.

    A link on the way is followed only as long as it stays inside the folder.
    """
    parts = PurePosixPath(name).parts
    usable = (
        parts
        and "\0" not in name
        and not name.startswith("/")
        and not name.endswith("/")
        and ".." not in parts
        and parts[0].casefold() not in _RESERVED
        and not is_temporary(parts[-1])
    )
    path = folder.joinpath(*parts)
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


def require_own_folder(folder: Path) -> None:
    """Raise StoreError where a link stands in the place of a run's folder: nothing is read or written through it."""
    if folder.is_symlink():
        raise StoreError(
            f"the folder of the run {folder.name} is a link, which is not followed",
            f"put the folder itself back, or remove the run: latcli runs rm {folder.name[-4:]}",
        )


def open_plainly(path: str | Path, flags: int) -> int:
    """A descriptor of a file of a run's folder, made where there is none, but never through a link or into a pipe.

    Raises OSError.
    """
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def read_plainly(path: Path) -> bytes:
    """The bytes of a plain file of a run's folder; a link is not followed, nor a pipe waited for. Raises OSError."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
        return file.read()


def sha256_of_file(path: Path) -> str:
    """Hex sha256 of a file, read in pieces. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
