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
    form: Form
    ranks: int = 1
    threads: int = 1


@dataclass(frozen=True)
class TrainingState:
    """A state that was read from `path`."""

    path: Path
    info: StateInfo
    tensors: dict[str, torch.Tensor]


def pack_state(trainer: Trainer) -> bytes:
    """The bytes of the run's state after the steps done. Raises DivergedError where a weight is not finite."""
    trainer.check_finite()
    tensors = {_NET + name: value for name, value in trainer.net.state_dict().items()}
    if trainer.average is not None:
        tensors |= {_AVERAGE + name: value for name, value in trainer.average.values.items()}
    for index, moments in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"{_OPTIMIZER}{index}.{key}": value for key, value in moments.items() if value is not None}
    about = (trainer.form, trainer.ranks.size, torch.get_num_threads())
    return pack(_KIND, tensors, to_json(StateInfo(trainer.done, *about)))


def read_state(path: Path) -> TrainingState:
    """The state at `path`. Raises WeightsError for a file that is truncated, damaged or no training state."""
    tensors, document = unpack(path, _KIND)
    try:
        info = read(StateInfo, document)
    except DocumentError as error:
        raise WeightsError(f"{path} lacks a part of the training state: {error}", "start a new run") from error
    return TrainingState(path, info, tensors)


def restore(trainer: Trainer, state: TrainingState) -> None:
    """Put a trainer, fresh from the same settings, where the state was.

    Raises WeightsError where the state does not fit the network.
    """
    load_into(trainer.net, _part(state.tensors, _NET), what=f"the weights of {state.path}")
    average = _part(state.tensors, _AVERAGE)
    try:
        for name, value in trainer.average.values.items() if trainer.average is not None else ():
            value.copy_(average[name])
        parameters = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]
        for name, value in _part(state.tensors, _OPTIMIZER).items():
            index, _, key = name.partition(".")
            parameter = parameters[int(index)]
            if value.shape == parameter.shape:
                # In the parameter's own memory layout: a fused update walks both side by side.
                value = torch.empty_like(parameter).detach().copy_(value)
            trainer.optimizer.state[parameter][key] = value.clone()
    except (LookupError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{state.path} does not fit the network that is trained", "start a new run") from error
    trainer.done = state.info.step


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
