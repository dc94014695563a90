"""Runs taken out of the store with their files; must not touch a run that is alive or a path outside the store."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from latcli.errors import StoreError
from latcli.store import locks
from latcli.store.database import Store
from latcli.store.files import LOCK, storage_error
from latcli.store.provenance import host
from latcli.store.records import RunRow


def remove_runs(store: Store, runs: Sequence[RunRow], *, other_hosts: bool = False) -> None:
    """Remove the runs' folders and then their rows; runs that had one as their parent stay, without it.

    Nothing is removed unless all can be. The row goes last, so that a removal that was cut short is still listed and
    can be done again. `other_hosts` allows runs that another machine seems to be working on. Raises StoreError.
    """
    with ExitStack() as held:
        for run in runs:
            if run.status == "running" and run.host != host() and not other_hosts:
                raise StoreError(
                    f"{run.id} runs on another machine, {run.host}, as far as can be told from here",
                    "remove it there; if that machine is gone, --force removes it from here",
                )
            held.enter_context(_held(store, run))
        for run in runs:
            _remove_folder(run)
            store.delete_run(run.id)


@contextmanager
def _held(store: Store, run: RunRow) -> Iterator[None]:
    """Keep the run's lock, which proves that no process is at work on it."""
    alive = StoreError(f"{run.id} is still running, as process {run.pid}", "stop it first, or wait until it has ended")
    if run.path.is_symlink() or not run.path.is_dir():  # nothing of ours to lock: never write through a link
        if store.is_alive(run.id):
            raise alive
        yield
        return
    try:
        lock = locks.acquire(run.path / LOCK)
    except OSError as error:
        raise storage_error(error, run.path) from error
    if lock is None:
        raise alive
    try:
        yield
    finally:
        lock.release()


def _remove_folder(run: RunRow) -> None:
    try:
        if run.path.is_symlink():
            run.path.unlink()  # the link only, never what it points to
        elif run.path.exists():
            shutil.rmtree(run.path)
    except OSError as error:
        raise storage_error(error, run.path) from error
