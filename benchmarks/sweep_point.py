"""One point of a sweep, in a process of its own, so that its peak memory is its own: prints JSON; knows no other point.

python -m benchmarks.sweep_point cnn|efficientnet_lite0|photo --batch N --side PIXELS --steps N --form NAME
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter

import numpy as np
import torch

from benchmarks.photos import carried
from benchmarks.problems import fresh_cnn, lite0
from latcli.engine.api import open_attacker
from latcli.engine.attacks.contract import run_attack
from latcli.engine.attacks.pgd import pgd
from latcli.engine.attacks.settings import AttackSettings
from latcli.engine.images import read_photo
from latcli.engine.noise import item_seeds
from latcli.engine.objects import ObjectSettings
from latcli.engine.photos import PhotoSettings


def batch_attack(given: argparse.Namespace) -> tuple[Callable[[], object], str]:
    """PGD on a batch of images at the network's own size, and the form that it takes."""
    case = fresh_cnn(given.batch) if given.network == "cnn" else lite0(None, given.batch)
    form = case.gradient_form(given.form)
    eps_B1HW = torch.full_like(case.x_BCHW[:, :1], case.epsilon)
    y_B, seeds_B = case.labels(), item_seeds(0, torch.arange(len(case.x_BCHW)))
    settings = AttackSettings(steps=given.steps)
    return lambda: run_attack(pgd, form, case.x_BCHW, y_B, eps_B1HW, settings, seeds_B), form.form


def photo_attack(given: argparse.Namespace) -> tuple[Callable[[], object], str]:
    """The attack on square photos at their own resolution, from the canvas to the scored PNG; gradients in fp32."""
    settings = PhotoSettings(attack=AttackSettings(steps=given.steps), precision="fp32")
    attacker = open_attacker(settings, ObjectSettings(center=0.5), device="cpu", offline=True)
    photo = read_photo(carried()[0])
    square = photo.image.resize((given.side, given.side))
    threat = attacker.threat(attacker.locate(replace(photo, levels_HWC=np.asarray(square), resized=True)))
    return lambda: attacker.attack_batch([threat] * given.batch), attacker.gradients.form


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=("cnn", "efficientnet_lite0", "photo"))
    for name, default in (("batch", 1), ("side", 224), ("steps", 5), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--form", default="auto")
    given = parser.parse_args()
    attack, form = (photo_attack if given.network == "photo" else batch_attack)(given)
    attack()  # warms up
    seconds = []
    for _ in range(given.repeats):
        begun = perf_counter()
        attack()
        seconds.append(perf_counter() - begun)
    print(json.dumps({"seconds": seconds, "form": form}))


if __name__ == "__main__":
    main()
