"""What `test_ranks.py` trains in one process and in two; run as a script, it is one rank of two, over gloo.

python rank_cases.py OUT RANK PORT
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import training_cases
from torch import nn

from latcli.engine.datasets.base import Dataset, DatasetSource, make_dataset
from latcli.engine.datasets.catalog import open_dataset
from latcli.engine.distributed import Ranks, use_global_norms
from latcli.engine.models.small import Architecture, PaperCNN, resnet18
from latcli.engine.training.loop import Batch, DivergedError, StepReport, Trainer, new_network, train

BASE = replace(training_cases.BASE, steps=5, optimizer="sgd", rate=2e-2)
#: A fresh ResNet at a high rate is chaotic: there, rounding grows tenfold with every step.
GENTLE: dict[str, Any] = {"steps": 3, "batch": 16, "rate": 1e-4}


@dataclass(frozen=True)
class Case:
    """What differs from BASE, the network, and how far losses may be apart by rounding.

    5e-6 is 40 ulp of a weight near 1, where shaking all weights by one ulp gives up to 30. The ResNet's 2.4e-5 is twice
    what the loss of one process, 2.9, moves by when it is given two threads in place of one.
    """

    changes: dict[str, Any] = field(default_factory=dict)
    architecture: Architecture = PaperCNN
    rounding: float = 5e-6


CASES = {
    "natural": Case({"regime": "natural", "augment": "crop-flip"}),
    "random": Case({"regime": "random", "attack": "n-fgsm", "mask_from": "otsu"}),
    "free-mix": Case({"attack": "free", "attack_steps": 3, "mix": 0.25}),
    "mix": Case({"mix": 0.75, "optimizer": "adamw", "rate": 1e-3}),
    "norm-trades": Case({"loss": "trades"} | GENTLE, resnet18, 2.4e-5),
}


def small_digits() -> Dataset:
    """Real digits of all classes, 7 pixels a side: large enough for every mask, small enough for a ResNet."""
    digits = open_dataset("mnist-5k", DatasetSource(Path("nowhere"), offline=True))
    train, test = (
        (x_NCHW[:: len(y_N) // count, :, ::4, ::4].contiguous(), y_N[:: len(y_N) // count])
        for x_NCHW, y_N, count in ((digits.x_train, digits.y_train, 60), (digits.x_test, digits.y_test, 20))
    )
    return make_dataset("small", train, test, digits.class_names, digits.defaults)


def trainer_of(case: Case, data: Dataset, ranks: Ranks | None = None) -> Trainer:
    net = new_network(case.architecture, data, 0)
    return Trainer(net, data, replace(BASE, **case.changes), "fp32", ranks)


def outcome(case: Case, data: Dataset, ranks: Ranks | None = None) -> dict[str, Any]:
    """Every step's report, and the weights in the end."""
    trainer, reports = trainer_of(case, data, ranks), list[StepReport]()
    train(trainer, on_step=reports.append, after_step=lambda step: None, measure_every=2)
    return {"reports": reports, "average": trainer.weights(), "last": trainer.net.state_dict()}


def norm_inputs(momentum: float | None) -> tuple[nn.BatchNorm2d, torch.Tensor, torch.Tensor]:
    """A batch norm in fp64, images far from 0, and a gradient of what comes out, for 6 images in all."""
    x_BFHW, out_BFHW = torch.randn(2, 6, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
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


def error_of_nan_on_rank_1(data: Dataset, ranks: Ranks) -> str:
    """What a rank raises where the images of rank 1 alone are not finite from step 3 on."""
    trainer = trainer_of(CASES["natural"], data, ranks)
    draw = trainer.batch_at

    def spoilt(index: int) -> Batch:
        batch = draw(index)
        return replace(batch, x_BCHW=batch.x_BCHW * torch.nan) if ranks.rank == 1 and index >= 2 else batch

    trainer.batch_at = spoilt
    try:
        train(trainer, on_step=lambda report: None, after_step=lambda step: None, measure_every=9)
    except DivergedError as error:
        return error.message
    return "nothing"


def main(out: Path, rank: int, port: int) -> None:
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = Ranks(2, 1, "cpu")
    data = small_digits()
    found: dict[str, Any] = {name: outcome(case, data, ranks) for name, case in CASES.items()}
    mine = slice(rank * 3, rank * 3 + 3)
    for momentum in (0.1, None):
        norm, x_BFHW, out_BFHW = norm_inputs(momentum)
        use_global_norms(nn.Sequential(norm))
        found[f"norm {momentum}"] = passed(norm, x_BFHW[mine], out_BFHW[mine])
    found["nan"] = error_of_nan_on_rank_1(data, ranks)
    torch.save(found, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
