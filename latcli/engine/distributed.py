"""Several processes that do one command's work, started by Lightning Fabric's launcher, torchrun or Slurm.

Each takes its share of the images, and nothing that an image meets depends on which rank it falls to. Rank 0 alone
keeps what is found: in training all ranks have the same, else they send it what they have made.

Batch norm in training is over the minibatch of all ranks, on any device; torch's own SyncBatchNorm is for GPUs alone.
Source: cross-replica batch norm (Peng et al., MegDet, CVPR'18), with the squared deviation reduced after the mean,
which loses no digits where the mean is large. Legend: F channels.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from latcli import __version__
from latcli.errors import ExitCode, LatcliError, UsageError

T = TypeVar("T")

#: A rank that has died is noticed at once; one that is stopped or out of reach, after so many seconds.
TIMEOUT_SECONDS = 60.0
#: How long ranks wait for each other while they read their data and look for objects.
_PREPARING = timedelta(hours=2)
#: A rank that makes something tells rank 0 so many times within the timeout that it is still there.
_SIGNS_OF_LIFE = 6


class Ranks:
    """The processes that work together, as one of them sees it; without arguments, the only process that there is.

    `rank` counts from 0 to below `size`; they run on `nodes` machines. What concerns all ranks is called by all.
    device_type: "cpu" or "cuda"; `device` is where this one computes. Where nothing else has started the processes,
    Fabric's launcher runs this command line once more for each. Raises LatcliError where Fabric is missing or the
    ranks do not come together, UsageError for a world that does not fit this machine.
    """

    device: torch.device

    def __init__(
        self, devices: int = 1, nodes: int = 1, device_type: str = "cpu", timeout: float = TIMEOUT_SECONDS
    ) -> None:
        self.rank, self.size, self.nodes, self._timeout = 0, devices * nodes, nodes, timeout
        if self.size > 1:
            self._launch(devices, device_type)

    @property
    def world(self) -> dict[str, int]:
        """How many processes on each of how many machines, by the names of the options."""
        return {"devices": self.size // self.nodes, "nodes": self.nodes}

    def join(self, net: nn.Module) -> nn.Module:
        """The network as it is to be called in an update: `backward` then gives all ranks the mean of the gradients.

        Its batch norms see the images of all ranks from now on.
        """
        if self.size == 1:
            return net
        use_global_norms(net)
        joined: nn.Module = self._fabric.setup_module(net, move_to_device=False)
        return joined

    def mean(self, values: Sequence[float]) -> list[float]:
        """The mean of each value over all ranks."""
        sums = torch.tensor(values, dtype=torch.float64)
        if self.size > 1:
            torch.distributed.all_reduce(sums, group=self._watched_group)
        means: list[float] = (sums / self.size).tolist()
        return means

    def gather(self, value: object) -> list[Any]:
        """Every rank's value (one that can be pickled), in the order of ranks; waits as long as preparing may take."""
        values = [value] * self.size
        if self.size > 1:
            with self.watched():
                torch.distributed.all_gather_object(values, value, group=self._preparing)
        return values

    def broadcast(self, value: T) -> T:
        """The value that rank 0 has passed, on every rank."""
        first: T = self.gather(value)[0]
        return first

    def agreed(self, make: Callable[[], T], facts: Callable[[T], object], what: str, hint: str) -> T:
        """What this rank makes, where all ranks can make it and its facts are the same on all.

        Raises the LatcliError of the first rank that fails, and UsageError with the hint where `what` differs.
        """
        if self.size == 1:
            return make()
        made: T | None = None
        failure: LatcliError | None = None
        try:
            made = make()
        except LatcliError as error:
            failure = error
        found = self.gather((failure, None if made is None else facts(made)))
        for rank, (failed, _) in enumerate(found):
            if failed is not None:
                raise failure if failure and rank == self.rank else _of_rank(rank, failed)
        for rank, (_, other) in enumerate(found):
            if other != found[0][1]:
                raise UsageError(f"{what} are not the same on rank {rank} as on rank 0", hint)
        assert made is not None
        return made

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's part of what all ranks have: every so many-th."""
        return items[self.rank :: self.size]

    def collected(self, own: Iterable[T]) -> Iterator[tuple[int, T]]:
        """What all ranks make, each with the number of its rank, as it comes; on rank 0 alone.

        On other ranks nothing comes: what they make is sent to rank 0, and must be such as can be pickled. No rank
        waits for another before all is made. Raises what making it raises, also on another rank, and LatcliError where
        another rank is gone.
        """
        if self.rank:
            self._send_all(own)
        else:
            yield from self._received(own)
        self.gather(None)

    def _launch(self, devices: int, device_type: str) -> None:
        if importlib.util.find_spec("lightning_fabric") is None:
            raise LatcliError("several devices need the package lightning-fabric", "pip install 'latcli[distributed]'")
        if device_type == "cuda" and torch.cuda.device_count() < devices:
            raise UsageError(
                f"--devices {devices}, but there are {torch.cuda.device_count()} CUDA devices",
                f"give --devices at most {torch.cuda.device_count()}, or --device cpu",
            )
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments.lightning import LightningEnvironment
        from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
        from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
        from lightning_fabric.strategies.ddp import DDPStrategy
        from lightning_fabric.strategies.launchers import subprocess_script
        from torch import distributed

        for name in ("lightning_fabric", "lightning.fabric", "torch.distributed"):
            logging.getLogger(name).setLevel(logging.ERROR)
        # Fabric's observer would kill rank 0 when another rank ends, before rank 0 has closed its run.
        subprocess_script._launch_process_observer = lambda child_processes: None
        timeout = timedelta(seconds=self._timeout)
        strategy = DDPStrategy(timeout=timeout, forward_sync_buffers=False)  # buffers are equal
        started_by: Any = LightningEnvironment()
        if "TORCHELASTIC_RUN_ID" in os.environ:
            started_by = TorchElasticEnvironment()
        elif _under_srun():
            started_by = SLURMEnvironment(auto_requeue=False)
        fabric = Fabric(
            accelerator=device_type, devices=devices, num_nodes=self.nodes, strategy=strategy, plugins=[started_by]
        )
        _require_free_port()
        with self.watched():
            fabric.launch()
            self._preparing = distributed.new_group(backend="gloo", timeout=_PREPARING)
            # What lies on the CPU anyway; gloo notices that a process has died, which NCCL does not.
            self._watched_group = distributed.new_group(backend="gloo", timeout=timeout)
        self._fabric, self.rank, self.device = fabric, fabric.global_rank, fabric.device
        self._sending = threading.Lock()
        versions = self.gather(f"latcli {__version__}, torch {torch.__version__}")
        if other := [rank for rank, version in enumerate(versions) if version != versions[0]]:
            raise UsageError(
                f"rank {other[0]} has {versions[other[0]]}, rank 0 has {versions[0]}",
                "install the same versions on every machine",
            )

    def _received(self, own: Iterable[T]) -> Iterator[tuple[int, T]]:
        arrived: queue.SimpleQueue[tuple[int, str, Any]] = queue.SimpleQueue()
        for rank in range(1, self.size):
            threading.Thread(target=self._receive, args=(rank, arrived), daemon=True).start()
        mine, at_work = iter(own), set(range(self.size))
        while at_work:
            if 0 in at_work and arrived.empty():  # then this rank goes on with its own
                arrived.put(next(((0, "made", one) for one in mine), (0, "all", None)))
            rank, kind, value = arrived.get()
            if kind == "made":
                yield rank, value
            elif kind == "all":
                at_work.discard(rank)
            else:
                with self.watched():
                    raise _of_rank(rank, value)

    def _receive(self, rank: int, arrived: queue.SimpleQueue[tuple[int, str, Any]]) -> None:
        """Take what a rank sends, on a thread of its own.

        That is "made" and something, "alive" between, in the end "all", or "failed" and the exception that stopped it.
        """
        kind = "alive"
        while kind in ("alive", "made"):
            message: list[Any] = [None]
            try:
                torch.distributed.recv_object_list(message, src=rank, group=self._watched_group)
                kind, value = message[0]
            except RuntimeError as error:
                kind, value = "failed", error
            if kind != "alive":
                arrived.put((rank, kind, value))

    def _send_all(self, own: Iterable[object]) -> None:
        ended = threading.Event()
        alive = threading.Thread(target=self._send_signs_of_life, args=(ended,), daemon=True)
        alive.start()
        try:
            with self.watched():
                for one in own:
                    self._send("made", one)
                self._send("all")
        except BaseException as error:
            told: BaseException = error
            if isinstance(error, Exception) and not isinstance(error, LatcliError):
                hint = "this is a defect of latcli: run it on one device with --debug, and report it"
                told = LatcliError(f"unexpected {type(error).__name__}: {error}", hint)
            with suppress(RuntimeError):  # rank 0 may be gone
                self._send("failed", told)
            raise
        finally:
            ended.set()
            alive.join()

    def _send(self, kind: str, value: object = None) -> None:
        with self._sending:
            torch.distributed.send_object_list([(kind, value)], dst=0, group=self._watched_group)

    def _send_signs_of_life(self, ended: threading.Event) -> None:
        while not ended.wait(self._timeout / _SIGNS_OF_LIFE):
            try:
                self._send("alive")
            except RuntimeError:  # nobody would keep what this rank makes
                os._exit(ExitCode.FAILURE)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Turn what torch raises where another rank is gone into a LatcliError."""
        if self.size == 1:
            yield
            return
        try:
            yield
        except ValueError as error:  # Fabric's, where devices and nodes are not what was started
            raise UsageError(str(error).splitlines()[0], "leave --devices and --nodes out, or correct them") from error
        except RuntimeError as error:
            if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error).lower():
                raise
            text = str(error).strip().partition("\n")[0]
            if "timed out" in text.lower() or "timeout" in text.lower():
                raise LatcliError(
                    f"another rank has not answered for {self._timeout:g} seconds",
                    "it may not have been started, or be stopped or out of reach: check it, then resume the run",
                ) from error
            raise LatcliError(
                f"another rank has ended, or cannot be reached: {text[:200]}",
                "look at its machine's memory and log, check MASTER_ADDR and MASTER_PORT, then resume the run",
            ) from error


def _of_rank(rank: int, error: BaseException) -> BaseException:
    """What has stopped another rank, as it stops this one."""
    if isinstance(error, LatcliError):
        return LatcliError(f"rank {rank}: {error.message}", error.hint, error.exit_code)
    return error


def world_of(devices: int | None, nodes: int | None) -> tuple[int, int]:
    """How many processes on each of how many machines: what torchrun or srun has started, else what is asked for.

    Raises UsageError where the two differ, or the environment lacks what several machines need.
    """
    found = None
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        found = (local, int(os.environ["WORLD_SIZE"]) // local)
    elif _under_srun():
        if "SLURM_NTASKS_PER_NODE" not in os.environ:
            raise UsageError("SLURM_NTASKS_PER_NODE is not in the environment", "give srun --ntasks-per-node")
        found = (int(os.environ["SLURM_NTASKS_PER_NODE"]), int(os.environ["SLURM_NNODES"]))
    asked = (devices or 1, nodes or 1)
    if found is not None and asked not in ((1, 1), found):
        raise UsageError(
            f"--devices {asked[0]} --nodes {asked[1]}, but {found[0]} processes on {found[1]} nodes were started",
            "leave both options out: they are found",
        )
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name not in os.environ]
    if found is None and asked[1] > 1 and missing:
        raise UsageError(
            f"--nodes {asked[1]} needs {', '.join(missing)} in the environment",
            "on every node set MASTER_ADDR and MASTER_PORT to an address and a free port of the first, and NODE_RANK "
            "to 0, 1, ...; or start latcli with torchrun or srun",
        )
    return found or asked


def _under_srun() -> bool:
    """Whether srun has started several tasks; in a batch script itself, or a shell under srun, it has not."""
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return "SLURM_STEP_ID" in os.environ and not interactive and int(os.environ.get("SLURM_NTASKS", "1")) > 1


def _require_free_port() -> None:
    """Raise UsageError where rank 0 is to listen at a port that is in use: the others would wait for it in vain."""
    port, first = os.environ.get("MASTER_PORT", ""), (os.environ.get("NODE_RANK"), os.environ.get("LOCAL_RANK", "0"))
    if "TORCHELASTIC_RUN_ID" in os.environ or _under_srun() or first != ("0", "0") or not port.isdecimal():
        return
    try:
        socket.create_server(("", int(port))).close()
    except OSError as error:
        raise UsageError(
            f"the port {port} (MASTER_PORT) cannot be used: {error.strerror}", "set MASTER_PORT to a free port"
        ) from error


class GlobalBatchNorm(_BatchNorm):
    """A batch norm whose statistics in training are those of all ranks' images; each rank must hold as many."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalized x of shape (B, F, ...); without training the same as any batch norm."""
        if not self.training:
            return super().forward(x)
        shape, dims = (1, -1, *(1,) * (x.dim() - 2)), [0, *range(2, x.dim())]
        mean_F = _mean_over_ranks(x.mean(dims))
        centered = x - mean_F.view(shape)
        variance_F = _mean_over_ranks(centered.square().mean(dims))
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                weight = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                count = x.numel() // x.shape[1] * torch.distributed.get_world_size()
                self.running_mean.lerp_(mean_F, weight)
                self.running_var.lerp_(variance_F * (count / max(count - 1, 1)), weight)
        normal = centered * (variance_F + self.eps).rsqrt().view(shape)
        return torch.addcmul(self.bias.view(shape), normal, self.weight.view(shape)) if self.affine else normal

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Nothing: the layer that this one was has seen such images before."""


def use_global_norms(net: nn.Module) -> None:
    """Make a GlobalBatchNorm of every batch norm inside `net` that is in training mode; weights and names stay.

    Raises UsageError for a kind of batch norm of which it is not known what else it does.
    """
    for module in net.modules():
        if isinstance(module, _BatchNorm) and module.training and not isinstance(module, GlobalBatchNorm):
            if type(module) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
                kind = type(module).__name__
                raise UsageError(
                    f"the network has layers of the kind {kind}, which cannot be trained on several devices",
                    "train it on one, or choose another --architecture",
                )
            module.__class__ = GlobalBatchNorm


def _mean_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over all ranks, which all hold it then; gradients flow back to all of them."""
    from torch.distributed.nn.functional import all_reduce

    total: torch.Tensor = all_reduce(tensor)  # type: ignore[no-untyped-call]
    return total / torch.distributed.get_world_size()
