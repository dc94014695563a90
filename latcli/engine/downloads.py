"""Downloads weights that are not on this machine, or fails within seconds.

The transfer itself is torch's own (temporary file, check of the hash in the file's name, bar on stderr), and files land
where torchvision looks for them: `torch.hub.get_dir()/checkpoints`.
"""

from __future__ import annotations

import re
import socket
import threading
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import torch

from latcli.errors import WeightsError

#: How long a server may take to answer before weights count as out of reach.
ANSWER_SECONDS = 4.0
#: How long a transfer may stall.
_STALL_SECONDS = 20.0


def downloads_folder() -> Path | None:
    """Where downloads are kept: torch's own cache; None for a user without a home folder, for whom it names none."""
    folder = Path(torch.hub.get_dir())
    return None if folder.parts[0] == "~" else folder


def kept_at(url: str) -> Path:
    """Where the file of that URL is kept once it is here: torch's own cache, as torchvision uses it."""
    return Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)


def reachable(url: str, timeout_s: float = ANSWER_SECONDS) -> bool:
    """Whether the URL answers within the time, name resolution, proxies and redirects included."""
    answers: list[bool] = []

    def ask() -> None:
        try:
            with urlopen(Request(url, method="HEAD"), timeout=timeout_s):
                answers.append(True)
        except HTTPError as error:
            answers.append(error.code in {405, 501})  # a server that has the file but no HEAD
        except (OSError, HTTPException, ValueError):
            answers.append(False)

    # A thread, because resolving a name takes as long as it likes: no timeout applies to it.
    thread = threading.Thread(target=ask, daemon=True, name="latcli-reachable")
    thread.start()
    thread.join(timeout_s)
    return answers == [True]


def require_reachable(url: str, *, what: str, hint: str, offline: bool) -> None:
    """Raise WeightsError where `url` may not (`offline`) or cannot be asked for what `what` names."""
    if offline:
        raise WeightsError(f"{what} are not on this machine, and --offline forbids the download", hint)
    if not reachable(url):
        raise WeightsError(f"{what} are not on this machine, and {urlparse(url).netloc} does not answer", hint)


def fetch(url: str, *, what: str, hint: str, offline: bool, progress: bool = False) -> Path:
    """The file of that URL: from torch's cache, else downloaded into it.

    `what` names the weights in the error ("the weights of …"), `hint` says how to get them by hand. `progress` shows a
    bar on stderr. Raises WeightsError, within seconds where nothing answers.
    """
    path = kept_at(url)
    if path.is_file():
        return path
    if downloads_folder() is None:
        raise WeightsError(
            f"{what} are not on this machine, and this user has no home folder to keep them in",
            "set HOME, XDG_CACHE_HOME or TORCH_HOME, or choose weights that are on this machine",
        )
    require_reachable(url, what=what, hint=hint, offline=offline)
    named = re.search(r"-([0-9a-f]{8,})\.", path.name)
    before = socket.getdefaulttimeout()
    # torch opens its connection without a timeout; the default for new sockets is the only way to give it one.
    socket.setdefaulttimeout(_STALL_SECONDS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), named and named.group(1), progress=progress)
    except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: the hash differs
        raise WeightsError(f"the download of {what} from {url} failed: {error}", hint) from error
    finally:
        socket.setdefaulttimeout(before)
    return path
