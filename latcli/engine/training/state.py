"""All that a training run needs to be resumed bit for bit, as the bytes of one file.

Random numbers and schedules are functions of the step, so weights, moments, the average and the step are all there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from latcli.engine.models.weights import load_into, pack, unpack
from latcli.engine.precision import Form
from latcli.engine.training.loop import Trainer
from latcli.errors import WeightsError
from latcli.results import DocumentError, read, to_json

_KIND = "training state"
_NET, _AVERAGE, _OPTIMIZER = "net.", "average.", "optimizer."


@dataclass(frozen=True)
class StateInfo:
    """What a state is of. `ranks` processes of `threads` threads computed it: sums depend on how they are parted."""

    step: int
    architecture: str
    dataset_fingerprint: str
    form: Form
    ranks: int = 1
    threads: int = 1


@dataclass(frozen=True)
class TrainingState:
    """A state that was read from `path`."""

    path: Path
    info: StateInfo
    tensors: dict[str, torch.Tensor]


def pack_state(trainer: Trainer, architecture: str) -> bytes:
    """The bytes of the run's state after the steps done. Raises DivergedError where a weight is not finite."""
    trainer.check_finite()
    tensors = {_NET + name: value for name, value in trainer.net.state_dict().items()}
    if trainer.average is not None:
        tensors |= {_AVERAGE + name: value for name, value in trainer.average.values.items()}
    for index, moments in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"{_OPTIMIZER}{index}.{key}": value for key, value in moments.items() if value is not None}
    about = (trainer.form, trainer.ranks.size, torch.get_num_threads())
    return pack(_KIND, tensors, to_json(StateInfo(trainer.done, architecture, trainer.data.fingerprint, *about)))


def read_state(path: Path) -> TrainingState:
    """The state at `path`. Raises WeightsError for a file that is truncated, damaged or no training state."""
    tensors, document = unpack(path, _KIND)
    try:
        info = read(StateInfo, document)
    except DocumentError as error:
        raise WeightsError(f"{path} lacks a part of the training state: {error}", "start a new run") from error
    if info.step < 0 or info.ranks < 1 or info.threads < 1:
        raise WeightsError(f"{path} counts steps, ranks or threads below zero", "start a new run")
    return TrainingState(path, info, tensors)


def restore(trainer: Trainer, state: TrainingState, architecture: str) -> None:
    """Put a trainer, fresh from the same settings, where the state was.

    Raises WeightsError where the state is of another architecture, other data, or does not fit the network.
    """
    if state.info.architecture != architecture:
        raise WeightsError(
            f"{state.path} is of the architecture {state.info.architecture}, not {architecture}",
            "start a new run with it",
        )
    if state.info.dataset_fingerprint != trainer.data.fingerprint:
        raise WeightsError(
            f"the data set {trainer.data.name} is not the one that {state.path} was trained on",
            "put the same files back under --data, or start a new run",
        )
    load_into(trainer.net, _part(state.tensors, _NET), what=f"the weights of {state.path}")
    average = _part(state.tensors, _AVERAGE)
    if trainer.average is not None:
        if set(average) != set(trainer.average.values):
            raise WeightsError(f"{state.path} lacks the average of the weights", "start a new run")
        for name, value in trainer.average.values.items():
            value.copy_(average[name])
    parameters = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]
    by_index = {str(index): parameter for index, parameter in enumerate(parameters)}
    for name, value in _part(state.tensors, _OPTIMIZER).items():
        index, _, key = name.partition(".")
        if index not in by_index:
            raise WeightsError(f"the training state has moments of a parameter {index!r:.40}", "start a new run")
        parameter = by_index[index]
        if value.shape == parameter.shape:
            # In the parameter's own memory layout: a fused update walks both side by side.
            trainer.optimizer.state[parameter][key] = torch.empty_like(parameter).detach().copy_(value)
        else:
            trainer.optimizer.state[parameter][key] = value.clone()
    trainer.done = state.info.step


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
