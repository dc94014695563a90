"""Ranks by Lightning Fabric: DDP over gloo on CPUs, over NCCL on GPUs; must not know stores, options or commands.

Fabric is told by the environment that its processes are there: its own launcher kills rank 0 with SIGKILL when another
rank ends, which would leave a run that nobody closed and an error that nobody reads.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import distributed, nn

from latcli.engine.training.global_norm import use_global_norms
from latcli.engine.training.lifeline import Hub, Spoke
from latcli.engine.training.worlds import World
from latcli.errors import LatcliError

T = TypeVar("T")

#: A rank that lives but does not answer, as one that is stopped, is given up after so many seconds. No two ranks are
#: further apart in a step than a checkpoint takes to write.
PATIENCE_SECONDS = 300.0
#: How long a collective that broke waits for word of whose fault it was.
_WORD_SECONDS = 5.0
_LOGGERS = ("lightning_fabric", "lightning.fabric")


class FabricRanks:
    """The processes of `world`, connected; `device` is where this one computes.

    `hub` is rank 0's end of the lifeline, `spoke` another rank's; where both are None, the line is laid here.
    """

    def __init__(
        self,
        world: World,
        device_type: str,
        *,
        hub: Hub | None = None,
        spoke: Spoke | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        self.rank, self.size, self.nodes, self._patience = world.rank, world.size, world.nodes, patience
        # Every rank holds the same statistics: there is nothing to send around before each step.
        strategy = DDPStrategy(timeout=timedelta(seconds=patience), forward_sync_buffers=False)
        self._fabric = Fabric(
            accelerator=device_type,
            devices=world.devices,
            num_nodes=world.nodes,
            strategy=strategy,
            plugins=[_environment(world)],
        )
        self.hub, self.spoke = hub, spoke
        self.meet()  # the next step waits for all where only its time limit ends it
        with self.watched():
            self._fabric.launch()
            self.device: torch.device = self._fabric.device
            self._numbers = _group_of_cpus(patience)
            if hub is None and spoke is None:
                self._lay_lifeline(world)
        if self.hub is not None and distributed.get_backend() == "nccl":
            self.hub.when_lost = _abort

    def join(self, net: nn.Module) -> nn.Module:
        """DDP around `net`, whose batch norms see the images of all ranks from now on."""
        use_global_norms(net)
        joined: nn.Module = self._fabric.setup_module(net, move_to_device=False)
        return joined

    def mean(self, values: Sequence[float]) -> list[float]:
        """The mean of each value over all ranks. Raises LatcliError where one is known to be gone."""
        if self.hub is not None:
            self.hub.check()
        sums = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(sums, group=self._numbers)
        means: list[float] = (sums / self.size).tolist()
        return means

    def meet(self) -> None:
        """Wait, for as long as it takes, until all ranks have come to this point. Raises LatcliError if one fails."""
        if self.hub is not None:
            self.hub.meet()
        elif self.spoke is not None:
            self.spoke.meet()

    def share(self, value: T | None) -> T:
        """Rank 0's value, on all ranks; it must be one that can be pickled."""
        shared: Any = self._fabric.broadcast(value)
        return shared  # type: ignore[no-any-return]

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Turn what torch raises in a collective that broke into a LatcliError that names the rank at fault."""
        try:
            yield
        except RuntimeError as error:
            if self.hub is not None:
                self.hub.wait_for_failure(_WORD_SECONDS)
            if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
                raise
            if self.spoke is not None:  # rank 0 finds out whose fault it was, and ends this process with it
                self.spoke.wait_for_end(2 * self._patience)
            raise self._lost(error) from error

    def _lost(self, error: RuntimeError) -> LatcliError:
        """What can be said where no rank has failed, and yet they do not find each other."""
        if "timed out" in str(error).lower() or "timeout" in str(error).lower():
            return LatcliError(
                f"a rank has not answered for {self._patience:g} seconds",
                "it was never started, is stopped, or its machine cannot be reached; then resume the run",
            )
        return LatcliError(
            f"the ranks cannot reach each other: {str(error).strip().partition(chr(10))[0]}",
            "check MASTER_ADDR and MASTER_PORT, and the network between the nodes",
        )

    def _lay_lifeline(self, world: World) -> None:
        if self.rank == 0:
            self.hub = Hub(self.size, wide=world.nodes > 1)
            self.share((self.hub.port, self.hub.key))
            self.hub.gather(lambda: None)
        else:
            line: tuple[int, str] = self.share(None)
            port, key = line
            host = os.environ["MASTER_ADDR"] if world.nodes > 1 else "127.0.0.1"
            self.spoke = Spoke((host, port), key, self.rank)


def _environment(world: World) -> ClusterEnvironment:
    if world.by == "torchrun":
        return TorchElasticEnvironment()
    if world.by == "slurm":
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment()


def _abort() -> None:
    """End what waits on a GPU for a rank that is gone, so that the main thread comes to know of it."""
    if distributed.group.WORLD is not None:
        distributed.group.WORLD.abort()


def _group_of_cpus(patience: float) -> Any:
    """A group for numbers that lie on the CPU anyway; it sees that a process has died, which NCCL does not."""
    if distributed.get_backend() == "gloo":
        return distributed.group.WORLD
    return distributed.new_group(backend="gloo", timeout=timedelta(seconds=patience))
