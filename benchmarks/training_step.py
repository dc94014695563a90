"""Times a training step beside the loop one would write after the paper, in one run, and prints the ratio.

Same network, minibatch, PGD steps and machine; the plain loop is fp32 in the default layout. Usage:
`python -m benchmarks.training_step [--attack-steps N] [--batch N] [--rounds N]`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.nn import functional

from benchmarks.record import Options, begin
from benchmarks.rounds import clocked, finished, in_turn
from latcli.engine.datasets.base import Dataset, DatasetSource
from latcli.engine.datasets.catalog import open_dataset
from latcli.engine.devices import open_device
from latcli.engine.models.small import PaperCNN
from latcli.engine.precision import gradient_model
from latcli.engine.training.loop import Trainer, new_network
from latcli.engine.training.settings import TrainSettings, resolve


def plain_step(data: Dataset, settings: TrainSettings) -> Callable[[], None]:
    net = new_network(PaperCNN, data, 0).to(data.x_train.device)
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


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Options(__doc__)
    parser.sized("attack-steps", 10, 2)
    parser.sized("batch", 128, 32)
    parser.sized("rounds", 15, 3)
    given = parser.read(arguments)
    device = open_device("auto")
    data = open_dataset("mnist-5k", DatasetSource(Path("data"), offline=True)).to(device)
    options = {"attack_steps": given.attack_steps, "batch": given.batch, "warm_up": 0.0}
    settings = resolve(options, data.defaults)
    net = new_network(PaperCNN, data, 0).to(device)
    form = gradient_model(net, data.image_shape).form
    steps = {"plain loop": plain_step(data, settings), "latcli": Trainer(net, data, settings, form).step}
    record = begin("training_step", given)
    measures = [clocked(name, finished(step, device)) for name, step in steps.items()]
    in_turn(measures, 1)  # warms up
    found = in_turn(measures, given.rounds)
    for name in steps:
        time = found.time(name)
        print(f"{name:10} {1000 * time.median:8.1f} ms a step (median), {1000 * time.lowest:8.1f} ms (best)")
        record.add("steps", name=name, form=form, ms_median=1000 * time.median, ms_best=1000 * time.lowest)
    ratio = found.ratio("plain loop", "latcli")
    print(f"plain / latcli: {ratio.median:.2f} ({ratio.range}); form {form} on {device}")
    record.add_ratio(f"training, PGD-{given.attack_steps}, batch {given.batch}", "plain loop", ratio)
    record.finish(given.out)


if __name__ == "__main__":
    main()
