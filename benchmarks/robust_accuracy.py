"""Times robust accuracy beside a peer's attack, in one run, and prints the ratios with what each found.

`latcli eval --until-wrong` against torchattacks' PGD of as many steps, on the same network, images, epsilon and batch;
both are scored in fp32. torchattacks has no epsilon matrix, so its one figure stands beside both of latcli's columns.
Usage: `python -m benchmarks.robust_accuracy [CHECKPOINT...] [--dataset NAME] [--data DIR] [--images N] [--rounds N]`,
with checkpoints that `latcli train` has left; without any, a small model of each of `--regimes` is trained first.
Needs the extra `benchmarks`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from benchmarks.problems import is_installed
from benchmarks.record import Options, Record, begin
from benchmarks.rounds import in_turn
from latcli.engine.datasets.base import DatasetSource, TrainingData
from latcli.engine.datasets.catalog import open_dataset
from latcli.engine.devices import open_device
from latcli.engine.evaluation.matrix import ATTACKED, EvalSettings, Evaluation, Subject
from latcli.engine.models.catalog import open_checkpoint, read_info
from latcli.engine.precision import gradient_model

_PEER = "torchattacks"


def ours(subject: Subject, data: TrainingData, settings: EvalSettings) -> dict[str, tuple[float, float]]:
    """Seconds and robust accuracy of each attacked column, checks of the result and of the gradients included."""
    evaluation = Evaluation([subject], data, settings)
    deque(evaluation.run(), maxlen=0)
    columns = {name: evaluation.columns[0][name] for name in ATTACKED}
    return {name: (float(column.seconds_1), column.figures()[1]) for name, column in columns.items()}


def theirs(net: nn.Module, data: TrainingData, settings: EvalSettings) -> tuple[float, float]:
    """The same of the peer, which attacks every image for all steps."""
    import torchattacks

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


def compare(path: Path, data: TrainingData, settings: EvalSettings, rounds: int, record: Record) -> None:
    net = open_checkpoint(path).to(open_device("auto"))
    fast = gradient_model(net, data.image_shape)
    subject = Subject(path.stem, net, fast)
    regime, right = read_info(path).regime, {}

    def columns() -> dict[str, float]:
        found = ours(subject, data, settings)
        right.update({name: 100 * accuracy for name, (_, accuracy) in found.items()})
        return {name: seconds for name, (seconds, _) in found.items()}

    def peer() -> dict[str, float]:
        seconds, accuracy = theirs(net, data, settings)
        right[_PEER] = 100 * accuracy
        return {_PEER: seconds}

    found = in_turn([peer, columns], rounds)
    print(f"\n{regime} ({path.parent.name}), {fast.form}, {settings.images} images, PGD-{settings.steps}", end="")
    print(f", epsilon {settings.epsilon:g}")
    for name in (_PEER, *ATTACKED):
        seconds, ratio = found.time(name).median, found.ratio(_PEER, name)
        told = f"torchattacks / this: {ratio.median:6.2f} ({ratio.range})"
        print(f"{name:12} {seconds:8.2f} s   right {right[name]:6.2f} %   {told}")
        record.add("robust accuracy", regime=regime, form=fast.form, name=name, seconds=seconds, right=right[name])
        if name != _PEER:
            record.add_ratio(f"{regime} model, {name} inputs", _PEER, ratio, (100 - right[name], 100 - right[_PEER]))


def trained(regime: str, given: argparse.Namespace, store: str) -> Path:
    """The checkpoint of a small model that `latcli train` makes now."""
    told = ["--regime", regime, "--dataset", given.dataset, "--data", str(given.data), "--store", store]
    length = ["--steps", str(given.train_steps), "--attack-steps", "10", "--offline"]
    command = [sys.executable, "-m", "latcli", "train", *told, *length, "--quiet", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Path(json.loads(done.stdout)["checkpoint"])


def settings_for(data: TrainingData, given: argparse.Namespace) -> EvalSettings:
    return EvalSettings(
        images=given.images,
        epsilon=data.defaults.epsilon,
        mask_from=data.defaults.mask_from,
        center=data.defaults.center if given.center is None else given.center,
        steps=given.steps,
        until_wrong=True,
        batch=given.batch,
    )


def options() -> Options:
    parser = Options(__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="*", metavar="CHECKPOINT")
    parser.add_argument("--dataset", default="mnist-5k")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--center", type=float, help="the middle, a share of the side; default: the data set's")
    for name, full, quick in (
        ("images", 500, 50),
        ("steps", 100, 10),
        ("batch", 250, 50),
        ("rounds", 3, 2),
        ("train-steps", 200, 20),
    ):
        parser.sized(name, full, quick)
    parser.sized("regimes", "natural,standard", "natural", str)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    given = options().read(arguments)
    record = begin("robust_accuracy", given)
    if is_installed(_PEER):
        data = open_dataset(given.dataset, DatasetSource(given.data, offline=True)).to(open_device("auto"))
        with TemporaryDirectory() as store:
            regimes = [] if given.checkpoints else given.regimes.split(",")
            for path in given.checkpoints + [trained(regime, given, store) for regime in regimes]:
                compare(path, data, settings_for(data, given), given.rounds, record)
    else:
        record.note("torchattacks is not installed, so there is nothing to compare: pip install 'latcli[benchmarks]'")
    record.finish(given.out)


if __name__ == "__main__":
    main()
