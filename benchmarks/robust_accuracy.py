"""Times robust accuracy beside a peer's attack, in one run, and prints the ratios with what each found.

`latcli eval --until-wrong` against torchattacks' PGD of as many steps, on the same network, images, epsilon and batch;
both are scored in fp32. torchattacks has no epsilon matrix, so its one figure stands beside both of latcli's columns.
Usage: `python benchmarks/robust_accuracy.py CHECKPOINT... [--dataset NAME] [--data DIR] [--images N] [--rounds N]`,
with checkpoints that `latcli train` has left. Needs the extra `dev`.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import torchattacks
from torch import nn

from latcli.engine.datasets.base import DatasetSource, TrainingData
from latcli.engine.datasets.catalog import open_dataset
from latcli.engine.devices import open_device
from latcli.engine.evaluation.matrix import Evaluation, Subject
from latcli.engine.evaluation.settings import ATTACKED, EvalSettings
from latcli.engine.folding import folded
from latcli.engine.models.checkpoint import open_checkpoint, read_info
from latcli.engine.precision import GradientForm, choose_form


def ours(subject: Subject, data: TrainingData, settings: EvalSettings) -> dict[str, tuple[float, float]]:
    """Seconds and robust accuracy of each attacked column, checks of the result and of the gradients included."""
    evaluation = Evaluation([subject], data, settings)
    evaluation.run(lambda progress: None)
    cells = {name: evaluation.columns[0][name].cell() for name in ATTACKED}
    return {name: (cell.seconds, cell.accuracy) for name, cell in cells.items()}


def theirs(net: nn.Module, data: TrainingData, settings: EvalSettings) -> tuple[float, float]:
    """The same of the peer, which attacks every image for all steps."""
    attack = torchattacks.PGD(net, settings.epsilon, 2.5 * settings.epsilon / settings.steps, settings.steps)
    chosen_N = torch.arange(settings.images) * data.test_count // settings.images
    seconds, right = 0.0, 0
    for images in data.testing(torch.split(chosen_N, settings.batch)):
        begun = time.perf_counter()
        adv_BCHW = attack(images.x_BCHW, images.y_B)
        with torch.no_grad():
            right += int((net(adv_BCHW).argmax(dim=1) == images.y_B).sum())
        if images.x_BCHW.is_cuda:
            torch.cuda.synchronize()
        seconds += time.perf_counter() - begun
    return seconds, right / settings.images


def compare(path: Path, data: TrainingData, settings: EvalSettings, rounds: int) -> None:
    net = open_checkpoint(path).to(open_device("auto"))
    without_norms = folded(net, data.image_shape)
    form = choose_form(without_norms, data.image_shape, settings.batch, "auto")
    subject = Subject(path.stem, net, GradientForm(without_norms, form))
    told = f"{read_info(path).regime} ({path.parent.name}), {form}, {settings.images} images, PGD-{settings.steps}"
    print(f"\n{told}, epsilon {settings.epsilon:g}")
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ("torchattacks", *ATTACKED)}
    for _ in range(rounds):  # in turn, so that whatever else the machine does hits both
        found["torchattacks"].append(theirs(net, data, settings))
        for name, figures in ours(subject, data, settings).items():
            found[name].append(figures)
    for name, figures in found.items():
        ratios = [peer[0] / mine[0] for peer, mine in zip(found["torchattacks"], figures, strict=True)]
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        print(
            f"{name:12} {median(one[0] for one in figures):8.2f} s   right {100 * figures[0][1]:6.2f} %   "
            f"torchattacks / this: {median(ratios):6.2f} ({spread})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data", type=Path, default=Path("data"))
    for name, default in (("images", 1000), ("steps", 100), ("batch", 250), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    data = open_dataset(given.dataset, DatasetSource(given.data, offline=True)).to(open_device("auto"))
    settings = EvalSettings(
        images=given.images,
        epsilon=data.defaults.epsilon,
        mask_from=data.defaults.mask_from,
        center=data.defaults.center,
        steps=given.steps,
        restarts=1,
        controls=False,
        until_wrong=True,
        strong=None,
        batch=given.batch,
        seed=0,
    )
    for path in given.checkpoints:
        compare(path, data, settings, given.rounds)


if __name__ == "__main__":
    main()
