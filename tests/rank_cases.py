"""What `test_ranks.py` trains on one rank and on two: run as a script, it is one rank of two, over gloo.

    python rank_cases.py OUT RANK PORT TASK

TASK is `stopped`, or names of cases with commas between, `norm` and `diverged` among them.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import training_cases
from torch import nn

from latcli.engine.datasets.base import Dataset, DatasetSource, make_dataset
from latcli.engine.datasets.catalog import open_dataset
from latcli.engine.models.small import Architecture, paper_cnn, resnet18
from latcli.engine.training.global_norm import GlobalBatchNorm
from latcli.engine.training.loop import Batch, DivergedError, StepReport, Trainer, new_network, train
from latcli.engine.training.ranks import Ranks
from latcli.engine.training.settings import TrainSettings
from latcli.engine.training.worlds import World
from latcli.errors import LatcliError

BASE = replace(training_cases.BASE, steps=5, optimizer="sgd", rate=2e-2)

#: A fresh ResNet at a high rate is chaotic: there, rounding grows tenfold with every step.
GENTLE: dict[str, Any] = {"steps": 3, "batch": 16, "rate": 1e-4}
#: Twice what one process's loss of 2.9 moves by when it is given two threads and not one: 1.2e-5.
ROUNDING = 2.4e-5


@dataclass(frozen=True)
class Case:
    """What differs from BASE, and the network; rounding: how far losses may be apart, 40 ulp where nothing is said."""

    changes: dict[str, Any] = field(default_factory=dict)
    architecture: Architecture = paper_cnn
    rounding: float = 5e-6

    @property
    def settings(self) -> TrainSettings:
        return replace(BASE, **self.changes)


CASES = {
    "natural": Case({"regime": "natural"}),
    "standard": Case({"regime": "standard"}),
    "background": Case({"augment": "crop-flip"}),
    "foreground": Case({"regime": "foreground", "attack": "fgsm-rs"}),
    "random": Case({"regime": "random", "attack": "n-fgsm"}),
    "otsu": Case({"mask_from": "otsu"}),
    "free": Case({"attack": "free", "attack_steps": 3}),
    "trades": Case({"loss": "trades"}),
    "mix": Case({"mix": 0.75}),
    "free-mix": Case({"attack": "free", "mix": 0.25}),
    "adamw": Case({"optimizer": "adamw", "rate": 1e-3}),
    "norm-natural": Case({"regime": "natural"} | GENTLE, resnet18, ROUNDING),
    "norm-trades": Case({"loss": "trades"} | GENTLE, resnet18, ROUNDING),
    "norm-free": Case({"attack": "free"} | GENTLE, resnet18, ROUNDING),
    "norm-mix": Case({"mix": 0.75} | GENTLE, resnet18, ROUNDING),
}


def small_digits() -> Dataset:
    """Real digits of all classes, 7 pixels a side: large enough for every mask, small enough for a ResNet."""
    digits = open_dataset("mnist-5k", DatasetSource(Path("nowhere"), offline=True))
    train, test = (
        (x_NCHW[:: len(y_N) // count, :, ::4, ::4].contiguous(), y_N[:: len(y_N) // count])
        for x_NCHW, y_N, count in ((digits.x_train, digits.y_train, 60), (digits.x_test, digits.y_test, 20))
    )
    return make_dataset("small", train, test, digits.class_names, digits.defaults)


def outcome(case: Case, data: Dataset, ranks: Ranks | None = None) -> dict[str, Any]:
    """Every step's report, and the weights in the end."""
    trainer = Trainer(new_network(case.architecture, data, 0), data, case.settings, "fp32", ranks)
    reports: list[StepReport] = []
    train(trainer, on_step=reports.append, after_step=lambda step: None, measure_every=2)
    return {"reports": reports, "weights": trainer.weights(), "state": trainer.net.state_dict()}


def join_world(rank: int, port: int, **more: Any) -> Ranks:
    """Rank `rank` of two on this machine."""
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    from latcli.engine.training.fabric_ranks import FabricRanks

    return FabricRanks(World(2, 1, rank, rank, "latcli"), "cpu", **more)


def norm_inputs(momentum: float | None) -> tuple[nn.BatchNorm2d, torch.Tensor, torch.Tensor]:
    """A batch norm in fp64, images far from 0, and a gradient of what comes out, for 6 images in all."""
    generator = torch.Generator().manual_seed(1)
    x_BFHW, out_BFHW = torch.randn(2, 6, 3, 2, 2, dtype=torch.float64, generator=generator)
    norm = nn.BatchNorm2d(3, momentum=momentum).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
        norm.bias.copy_(torch.tensor([0.1, 0.0, 3.0]))
    return norm, x_BFHW * torch.tensor([1.0, 5.0, 0.1]).view(1, 3, 1, 1) + 100.0, out_BFHW


def passed(norm: nn.Module, x_BFHW: torch.Tensor, out_BFHW: torch.Tensor) -> dict[str, torch.Tensor]:
    """Twice forward and once backward: what comes out, the gradients, the statistics."""
    norm(x_BFHW * 2)
    x_BFHW = x_BFHW.clone().requires_grad_()
    y_BFHW = norm(x_BFHW)
    y_BFHW.backward(out_BFHW)
    gradients = {f"gradient of {name}": parameter.grad for name, parameter in norm.named_parameters()}
    return {"y": y_BFHW.detach(), "gradient of x": x_BFHW.grad} | gradients | dict(norm.named_buffers())


def main(out: Path, rank: int, port: int, task: str) -> None:
    if task == "stopped":
        torch.save(told_of_stopped(rank, port), out)
        return
    ranks = join_world(rank, port)
    data = small_digits()
    names = task.split(",")
    outcomes: dict[str, Any] = {name: outcome(CASES[name], data, ranks) for name in names if name in CASES}
    if "norm" in names:
        mine = slice(rank * 3, rank * 3 + 3)
        outcomes["norm"] = {}
        for momentum in (0.1, None):
            norm, x_BFHW, out_BFHW = norm_inputs(momentum)
            outcomes["norm"][momentum] = passed(GlobalBatchNorm.of(norm), x_BFHW[mine], out_BFHW[mine])
    if "diverged" in names:
        outcomes["diverged"] = told_of_divergence(data, ranks)
    torch.save(outcomes, out)


def told_of_divergence(data: Dataset, ranks: Ranks) -> str:
    """What a rank says where the images of rank 1 alone are no numbers from step 3 on."""
    trainer = Trainer(new_network(paper_cnn, data, 0), data, CASES["natural"].settings, "fp32", ranks)
    draw = trainer.batch_at

    def spoilt(index: int) -> Batch:
        batch = draw(index)
        return replace(batch, x_BCHW=batch.x_BCHW * torch.nan) if ranks.rank == 1 and index >= 2 else batch

    trainer.batch_at = spoilt  # type: ignore[method-assign]
    try:
        train(trainer, on_step=lambda report: None, after_step=lambda step: None, measure_every=9)
    except DivergedError as error:
        return error.message
    return "nothing"


def told_of_stopped(rank: int, port: int) -> str:
    """What rank 0 says of a rank 1 that stops, as Ctrl-Z would make it, in the middle of training."""
    ranks = join_world(rank, port, patience=3.0)
    try:
        with ranks.watched():
            ranks.mean([1.0])
            if rank == 1:
                os.kill(os.getpid(), signal.SIGSTOP)
            ranks.mean([2.0])
    except LatcliError as error:
        return error.message
    return "nothing"


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
