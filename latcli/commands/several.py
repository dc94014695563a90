"""The processes of a command that has `--devices` and `--nodes`: started, connected, all but the first silent."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from latcli.engine.devices import open_device
from latcli.engine.distributed import FabricRanks, Ranks, world_of
from latcli.errors import StoreError, UsageError
from latcli.options import SeveralOptions
from latcli.session import Session
from latcli.store.files import RUN_JSON


def connected(
    options: SeveralOptions, session: Session, check: Callable[[int], None] = lambda size: None
) -> tuple[Ranks, Session]:
    """All ranks, and a session for this one, with its device. A rank other than 0 says nothing unless it is debugged.

    `check` is given the number of processes and may refuse it before any is started. Raises UsageError for a world that
    this machine cannot be part of.
    """
    devices, nodes = world_of(options.devices, options.nodes)
    if devices * nodes == 1:
        return Ranks(), session
    if session.device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {session.device} cannot be used by several processes", "give --device cpu or cuda")
    kind = open_device(session.device).type
    check(devices * nodes)
    ranks = FabricRanks(devices, nodes, "cuda" if kind == "cuda" else "cpu")
    session = replace(session, device=str(ranks.device))
    if not ranks.rank:
        return ranks, session
    if not session.debug:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    return ranks, replace(session, quiet=not session.debug, json=False)


def common_folder(ranks: Ranks, folder: Path | None, form: Callable[[], str] = str) -> Path:
    """The folder of rank 0's run, into which all ranks write; before, their forms of gradients are compared.

    Raises StoreError where a rank cannot see it, and UsageError where the forms differ.
    """

    def look() -> str:
        if not (common / RUN_JSON).is_file():
            raise StoreError(
                f"the run's folder {common} is not there",
                "keep the runs in a folder that all machines share: --store DIR",
            )
        return form()

    first = ranks.broadcast(folder)
    assert first is not None
    common = first
    ranks.agreed(look, str, "the forms of gradients", "give --precision fp32")
    return common
