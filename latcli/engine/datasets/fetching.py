"""Downloads of data sets by torchvision's classes, refused within seconds where nothing answers; knows no format."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from latcli.engine.datasets.base import DatasetSource
from latcli.engine.downloads import reachable
from latcli.errors import LatcliError


class MissingDatasetError(LatcliError):
    """A data set that is neither on disk nor to be had."""


def download(torchvision_class: Any, url: str, name: str, missing: str, source: DatasetSource) -> None:
    """Let a class of `torchvision.datasets` download itself into the data folder.

    `url` is asked first whether it answers; `missing` names the file that is not there. Raises MissingDatasetError.
    """
    hint = f"put {name} under {source.folder} in torchvision's layout, name its folder with --data, or try mnist-5k"
    if source.offline:
        raise MissingDatasetError(f"{missing} is missing, and --offline forbids to download it", hint)
    if not reachable(url):
        raise MissingDatasetError(f"{missing} is missing, and {urlparse(url).netloc} does not answer", hint)
    try:
        source.folder.mkdir(parents=True, exist_ok=True)
        with _quiet(not source.progress):
            torchvision_class(str(source.folder), train=True, download=True)
    except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: no mirror had it, or its checksum differs
        reason = " ".join(str(error).split())[:200]
        raise MissingDatasetError(f"the download of {name} failed: {reason}", hint) from error


def md5_of(path: Path) -> str:
    """Hex md5 of a file, in which data sets publish their checksums. Raises LatcliError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise LatcliError(f"cannot read {path}: {error.strerror or error}", "check its permissions") from error


@contextlib.contextmanager
def _quiet(silent: bool) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if silent:
            sink = io.StringIO()
            stack.enter_context(contextlib.redirect_stdout(sink))
            stack.enter_context(contextlib.redirect_stderr(sink))
        yield
