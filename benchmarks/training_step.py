"""Times a training step beside the loop one would write after the paper, in one run, and prints the ratio.

Same network, minibatch, PGD steps and machine; the plain loop is fp32 in the default layout. Usage:
`python benchmarks/training_step.py [--attack-steps N] [--batch N] [--rounds N]`.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch.nn import functional

from latcli.commands.train_options import TrainOptions, resolve
from latcli.engine.datasets.base import Dataset, DatasetSource
from latcli.engine.datasets.catalog import open_dataset
from latcli.engine.devices import open_device
from latcli.engine.models.small import paper_cnn
from latcli.engine.precision import choose_form
from latcli.engine.training.loop import Trainer, new_network
from latcli.engine.training.presets import PRESETS
from latcli.engine.training.settings import TrainSettings


def plain_step(data: Dataset, settings: TrainSettings) -> Callable[[], None]:
    net = new_network(paper_cnn, data, 0).to(data.x_train.device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.rate)
    H, W = data.image_shape[1:]
    mask = torch.ones(H, W, device=data.x_train.device)
    mask[10:18, 10:18] = 0
    bound, alpha = settings.epsilon * mask, 2.5 / settings.attack_steps * settings.epsilon * mask

    def step() -> None:
        chosen = torch.randint(0, len(data.y_train), (settings.batch,), device=data.x_train.device)
        x, y = data.x_train[chosen].float() / 255, data.y_train[chosen]
        adv = (x + bound * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
        for _ in range(settings.attack_steps):
            adv.requires_grad_()
            gradient = torch.autograd.grad(functional.cross_entropy(net(adv), y), adv)[0]
            adv = adv.detach() + alpha * gradient.sign()
            adv = torch.min(torch.max(adv, x - bound), x + bound).clamp(0, 1)
        optimizer.zero_grad()
        functional.cross_entropy(net(adv), y).backward()
        optimizer.step()

    return step


def seconds(step: Callable[[], object], device: torch.device) -> float:
    begun = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("attack-steps", 10), ("batch", 128), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    device = open_device("auto")
    data = open_dataset("mnist-5k", DatasetSource(Path("data"), offline=True)).to(device)
    said = TrainOptions(attack_steps=given.attack_steps, batch=given.batch, warm_up=0.0)
    settings = resolve(said, PRESETS["standard"], data.defaults, seed=0)
    net = new_network(paper_cnn, data, 0).to(device)
    form = choose_form(net, data.image_shape, settings.batch, "auto")
    contenders: dict[str, Callable[[], object]] = {
        "plain": plain_step(data, settings),
        "latcli": Trainer(net, data, settings, form).step,
    }
    for step in contenders.values():
        step()
    # In turn, so that whatever else the machine does hits both.
    times = {name: [] for name in contenders}  # type: dict[str, list[float]]
    for _ in range(given.rounds):
        for name, step in contenders.items():
            times[name].append(seconds(step, device))
    for name, found in times.items():
        print(f"{name:7} {1000 * median(found):8.1f} ms a step (median), {1000 * min(found):8.1f} ms (best)")
    ratios = [plain / ours for plain, ours in zip(times["plain"], times["latcli"], strict=True)]
    print(f"plain / latcli: {median(ratios):.2f} (median of pairs); form {form} on {device}")


if __name__ == "__main__":
    main()
