"""All that a training run must remember to go on as if nothing had happened, as one file's bytes; must not know runs.

Random numbers and schedules are functions of the step, so weights, moments, the average and the step are all there is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch

from latcli.documents import DocumentError, require_shape
from latcli.engine.models.checkpoint import pack, unpack
from latcli.engine.models.weights import load_into
from latcli.engine.precision import Form, check_form
from latcli.engine.training.loop import Trainer
from latcli.errors import WeightsError

_KIND = "training state"
_NET, _AVERAGE, _OPTIMIZER = "net.", "average.", "optimizer."


class _Needed(TypedDict):
    step: int
    architecture: str
    dataset_fingerprint: str
    form: str
    threads: int


class _Document(_Needed, total=False):
    ranks: int  # unknown to the first versions


@dataclass(frozen=True)
class TrainingState:
    """A state that was read. `ranks` processes of `threads` threads computed it: sums depend on how they are parted."""

    path: Path
    step: int
    architecture: str
    dataset_fingerprint: str
    form: Form
    ranks: int
    threads: int
    tensors: dict[str, torch.Tensor]


def pack_state(trainer: Trainer, architecture: str) -> bytes:
    """The bytes of the run's state after the steps done. Raises DivergedError where a weight is not finite."""
    trainer.check_finite()
    tensors = {_NET + name: value for name, value in trainer.net.state_dict().items()}
    if trainer.average is not None:
        tensors |= {_AVERAGE + name: value for name, value in trainer.average.values.items()}
    for index, moments in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"{_OPTIMIZER}{index}.{key}": value for key, value in moments.items() if value is not None}
    description = {
        "step": trainer.done,
        "architecture": architecture,
        "dataset_fingerprint": trainer.data.fingerprint,
        "form": trainer.form,
        "ranks": trainer.ranks.size,
        "threads": torch.get_num_threads(),
        "settings": trainer.settings.to_json(),
    }
    return pack(_KIND, tensors, description)


def read_state(path: Path) -> TrainingState:
    """The state at `path`. Raises WeightsError for a file that is truncated, damaged or no training state."""
    tensors, document = unpack(path, _KIND)
    try:
        require_shape(document, _Document)
    except DocumentError as error:
        raise WeightsError(f"{path} lacks a part of the training state: {error}", "start a new run") from error
    if min(document["step"], document["threads"] - 1, document.get("ranks", 1) - 1) < 0:
        raise WeightsError(f"{path} counts steps, ranks or threads below zero", "start a new run")
    return TrainingState(
        path,
        document["step"],
        document["architecture"],
        document["dataset_fingerprint"],
        check_form(document["form"]),
        document.get("ranks", 1),
        document["threads"],
        tensors,
    )


def restore(trainer: Trainer, state: TrainingState, architecture: str) -> None:
    """Put a trainer, fresh from the same settings, where the state was.

    Raises WeightsError where the state is of another architecture, other data, or does not fit the network.
    """
    if state.architecture != architecture:
        raise WeightsError(
            f"{state.path} is of the architecture {state.architecture}, not {architecture}", "start a new run with it"
        )
    if state.dataset_fingerprint != trainer.data.fingerprint:
        raise WeightsError(
            f"the data set {trainer.data.name} is not the one that {state.path} was trained on",
            "put the same files back under --data, or start a new run",
        )
    load_into(trainer.net, _part(state.tensors, _NET), what=f"the weights of {state.path}")
    average = _part(state.tensors, _AVERAGE)
    if trainer.average is not None:
        if set(average) != set(trainer.average.values):
            raise WeightsError(f"{state.path} lacks the average of the weights", "start a new run")
        trainer.average.restore(average)
    _restore_moments(trainer, _part(state.tensors, _OPTIMIZER))
    trainer.done = state.step


def _restore_moments(trainer: Trainer, saved: dict[str, torch.Tensor]) -> None:
    parameters = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]
    for name, value in saved.items():
        index, _, key = name.partition(".")
        if not re.fullmatch(r"\d{1,6}", index) or int(index) >= len(parameters):
            raise WeightsError(f"the training state has moments of a parameter {index!r:.40}", "start a new run")
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:
            # In the parameter's own memory layout: a fused update walks both side by side.
            trainer.optimizer.state[parameter][key] = torch.empty_like(parameter).detach().copy_(value)
        else:
            trainer.optimizer.state[parameter][key] = value.clone()


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
