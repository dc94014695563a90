"""From options and environment variables to the processes that train one model; must not start or connect them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from latcli.errors import UsageError

Starter = Literal["latcli", "torchrun", "slurm"]

#: What a node's first process must be told where nothing else starts the nodes: the variables of Lightning's own.
NODE_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")


@dataclass(frozen=True)
class World:
    """`devices` processes on each of `nodes` machines; this one is number `rank` of all, `local` on its machine.

    `by`: who starts them. Under latcli, the first process of a node starts the node's others.
    """

    devices: int
    nodes: int
    rank: int
    local: int
    by: Starter

    @property
    def size(self) -> int:
        """How many processes there are in all."""
        return self.devices * self.nodes


def find_world(devices: int | None, nodes: int | None, environment: Mapping[str, str]) -> World | None:
    """The world that this process belongs to; None where it is alone. None for what the user did not say.

    Under torchrun and under Slurm's srun their variables decide, and what the user says must agree with them. Raises
    UsageError where it does not, or a variable is missing or no number.
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        local_size = _number(environment, "LOCAL_WORLD_SIZE")
        world = World(
            local_size,
            _number(environment, "WORLD_SIZE") // local_size,
            _number(environment, "RANK"),
            _number(environment, "LOCAL_RANK"),
            "torchrun",
        )
    elif _is_srun(environment):
        world = World(
            _number(environment, "SLURM_NTASKS_PER_NODE"),
            _number(environment, "SLURM_NNODES"),
            _number(environment, "SLURM_PROCID"),
            _number(environment, "SLURM_LOCALID"),
            "slurm",
        )
    else:
        world = _own_world(devices or 1, nodes or 1, environment)
    if devices not in (None, world.devices) or nodes not in (None, world.nodes):
        raise UsageError(
            f"--devices {devices or world.devices} --nodes {nodes or world.nodes}, but {world.by} has started "
            f"{world.devices} processes on {world.nodes} nodes",
            "leave both options out: they are found",
        )
    return world if world.size > 1 else None


def _own_world(devices: int, nodes: int, environment: Mapping[str, str]) -> World:
    missing = [name for name in NODE_VARIABLES if name not in environment]
    if nodes > 1 and missing:
        raise UsageError(
            f"--nodes {nodes} needs {', '.join(missing)} in the environment",
            "on every node set MASTER_ADDR and MASTER_PORT to an address and a free port of the first, and NODE_RANK "
            "to 0, 1, ...; or start latcli by torchrun or srun",
        )
    node = _number(environment, "NODE_RANK") if nodes > 1 else 0
    local = _number(environment, "LOCAL_RANK") if devices > 1 and "LOCAL_RANK" in environment else 0
    if node >= nodes or local >= devices:
        raise UsageError(
            f"NODE_RANK {node} and LOCAL_RANK {local} are too large for --nodes {nodes} --devices {devices}",
            "they count from 0",
        )
    return World(devices, nodes, node * devices + local, local, "latcli")


def _is_srun(environment: Mapping[str, str]) -> bool:
    """Whether srun has started several tasks; in a batch script itself, or a shell under srun, it has not."""
    if "SLURM_STEP_ID" not in environment or environment.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return False
    return "SLURM_NTASKS" in environment and _number(environment, "SLURM_NTASKS") > 1


def _number(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except KeyError:
        hint = "with srun, give --ntasks-per-node" if name.startswith("SLURM") else "it is set by what starts latcli"
        raise UsageError(f"{name} is not in the environment", hint) from None
    except ValueError:
        raise UsageError(
            f"{name} in the environment is '{environment[name]}', no whole number", "set it anew"
        ) from None
