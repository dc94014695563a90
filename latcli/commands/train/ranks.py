"""The processes of `latcli train --devices N`: started, told what to do, ended; must not know runs or how to train.

Rank 0 does all that a run alone does. The others are the same command line, take what rank 0 has settled, are silent,
and end with it.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING

import torch

from latcli.commands.signals import PendingSignal
from latcli.commands.train.options import DEFAULT_PRESET, PhotoOptions
from latcli.engine.datasets.photo_masks import PhotoMasks
from latcli.engine.devices import open_device
from latcli.engine.failures import failure_of
from latcli.engine.models.finetuning import is_classifier_name
from latcli.engine.precision import Form
from latcli.engine.training.lifeline import Hub, Spoke
from latcli.engine.training.order import check_parts
from latcli.engine.training.presets import PresetName, preset_row
from latcli.engine.training.ranks import Alone, Ranks
from latcli.engine.training.settings import TrainSettings
from latcli.engine.training.state import TrainingState
from latcli.engine.training.worlds import World, find_world
from latcli.errors import ExitCode, LatcliError, Terminated, UsageError
from latcli.options import TrainOptions
from latcli.session import Session

if TYPE_CHECKING:
    from latcli.engine.training.fabric_ranks import FabricRanks

#: In the environment of a process that latcli has started: rank 0's port and key.
_LIFELINE = "LATCLI_LIFELINE"
#: A rank that was told to end and has not after so many seconds is killed.
_END_SECONDS = 5.0
#: How long a rank that stops on a signal waits for rank 0 to keep the state; whoever started it may end all when one
#: ends.
_KEEP_SECONDS = 60.0


@dataclass(frozen=True)
class Plan:
    """What rank 0 has settled and the others take over: a choice made twice might not come out the same.

    `masks` are those that rank 0's detector found; where they come from files, each rank reads its own.
    """

    dataset: str
    fingerprint: str
    masks: PhotoMasks | None
    architecture: str
    photos: PhotoOptions
    preset: PresetName
    settings: TrainSettings
    form: Form
    threads: int
    state: TrainingState | None


def call(ranks: Ranks, plan: Plan) -> None:
    """Rank 0: hand out the plan, and wait until all others are ready for the first step, however long that takes."""
    ranks.meet()
    ranks.share(plan)
    ranks.meet()


def answer(ranks: Ranks) -> Plan:
    """Another rank: the plan, once rank 0 has it; `ranks.meet()` then says that this rank is ready."""
    ranks.meet()
    plan: Plan = ranks.share(None)
    return plan


def agreed_signal(pending: PendingSignal, ranks: Ranks) -> int | None:
    """The signal to stop at after this step, the same on all ranks: one that any of them has caught by now."""
    if ranks.size == 1:
        return pending.number
    numbers = (signal.SIGINT, signal.SIGTERM)
    caught = ranks.mean([float(pending.number == number) for number in numbers])
    return next((number for number, share in zip(numbers, caught, strict=True) if share), None)


@contextmanager
def gathered(options: TrainOptions, session: Session) -> Iterator[tuple[Ranks, Session]]:
    """All ranks, connected, and the session as this one is to use it; Alone where nothing asks for more.

    A rank other than 0 does not come out of the block: its process ends there. Raises UsageError for a world that this
    machine cannot be part of; LatcliError where Fabric is missing, or a rank fails or is lost.
    """
    world = find_world(options.devices, options.nodes, os.environ)
    if world is None:
        yield Alone(), session
        return
    kind = _device_kind(session.device, world)
    if importlib.util.find_spec("lightning_fabric") is None:
        raise LatcliError("several devices need the package lightning-fabric", "pip install 'latcli[distributed]'")
    if options.resume is None:  # else the run says, and is read when all ranks are there
        fine_tuning = is_classifier_name(options.architecture or "")
        row = preset_row(options.preset or DEFAULT_PRESET, fine_tuning=fine_tuning)
        check_parts(options.batch or row.batch, world.size)
    if world.rank == 0:
        with _leading(world, kind) as ranks:
            yield ranks, replace(session, device=str(ranks.device))
    else:
        with _following(world, kind, session.debug) as ranks:
            yield ranks, replace(session, device=str(ranks.device), quiet=True, json=False)


def _device_kind(name: str, world: World) -> str:
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {name} is no device for {world.size} processes", "give --device cpu or cuda")
    kind = open_device(name).type
    if kind == "mps":
        return "cpu"
    if kind == "cuda" and torch.cuda.device_count() < world.devices:
        raise UsageError(
            f"--devices {world.devices}, but there are {torch.cuda.device_count()} CUDA devices",
            f"give --devices at most {torch.cuda.device_count()}, or --device cpu",
        )
    return kind


@contextmanager
def _leading(world: World, kind: str) -> Iterator[FabricRanks]:
    hub = Hub(world.size, wide=False) if world.nodes == 1 and _starts_others(world) else None
    with _others(world, hub) as others:
        try:
            if hub is not None:
                hub.gather(lambda: _check(others))
            ranks = _connected(world, kind, hub, None)
            hub = ranks.hub
            with ranks.watched():
                yield ranks
            if hub is not None:
                hub.close(done=True)
        finally:
            if hub is not None:
                hub.close(done=False)


@contextmanager
def _following(world: World, kind: str, debug: bool) -> Iterator[FabricRanks]:
    port, _, key = os.environ.get(_LIFELINE, "").partition(":")
    with _others(world, None):
        try:
            spoke = Spoke(("127.0.0.1", int(port)), key, world.rank) if key else None
        except OSError:  # rank 0 is gone already
            sys.exit(ExitCode.FAILURE)
        with _LastWords(spoke, debug) as words:
            ranks = _connected(world, kind, None, spoke)
            words.spoke = ranks.spoke
            with ranks.watched():
                yield ranks


def _connected(world: World, kind: str, hub: Hub | None, spoke: Spoke | None) -> FabricRanks:
    from latcli.engine.training.fabric_ranks import FabricRanks

    return FabricRanks(world, kind, hub=hub, spoke=spoke)


class _LastWords:
    """How a rank other than 0 ends its process, whatever ends it: rank 0 is told, the user only by rank 0."""

    def __init__(self, spoke: Spoke | None, debug: bool) -> None:
        self.spoke, self._debug = spoke, debug

    def __enter__(self) -> _LastWords:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.spoke is None:  # nobody to tell but the user
            return
        if error is None or isinstance(error, SystemExit):
            self.spoke.wait_for_end()
            return
        if isinstance(error, KeyboardInterrupt | Terminated):
            self.spoke.wait_for_end(_KEEP_SECONDS)
            sys.exit(ExitCode.FAILURE)
        if self._debug:
            traceback.print_exception(error)
        told = error if isinstance(error, LatcliError) else failure_of(error)
        if told is not None:
            self.spoke.fail(told.message, told.hint)
        else:
            first_line = str(error).strip().partition("\n")[0]
            self.spoke.fail(f"unexpected {type(error).__name__}: {first_line}", "rerun with --debug, and report it")
        sys.exit(ExitCode.FAILURE)


def _starts_others(world: World) -> bool:
    """Whether this process starts the others of its node: nobody else has started any."""
    return world.by == "latcli" and "LOCAL_RANK" not in os.environ


@contextmanager
def _others(world: World, hub: Hub | None) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes that this one starts, if any; none of them outlives the block."""
    if not _starts_others(world):
        yield []
        return
    from lightning_fabric.plugins.environments.lightning import find_free_network_port

    if world.nodes == 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_network_port()), "NODE_RANK": "0"}
    if hub is not None:
        os.environ[_LIFELINE] = f"{hub.port}:{hub.key}"
    as_module = sys.modules["__main__"].__spec__ is not None  # else as the console script
    command = [sys.executable, *(("-m", "latcli") if as_module else (sys.argv[0],)), *sys.argv[1:]]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for local in range(1, world.devices):
            environment = os.environ | {"LOCAL_RANK": str(local)}
            started.append(
                # In a group of its own: Ctrl-C is for rank 0, which stops all at one step.
                subprocess.Popen(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, process_group=0
                )
            )
        os.environ["LOCAL_RANK"] = "0"
        yield started
    finally:
        for process in started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END_SECONDS)
            process.kill()
            process.wait()


def _check(others: list[subprocess.Popen[bytes]]) -> None:
    for rank, process in enumerate(others, 1):
        if process.poll() is not None:
            raise LatcliError(
                f"rank {rank}: its process ended with code {process.returncode} before it had begun",
                "what it says stands above; try fewer --devices where memory is short",
            )
