"""Times PGD beside the peers' PGD on the same network, images, epsilon and steps, in one run, and prints the ratios.

Each peer is used as its documentation says; all results are scored in fp32, by success and by the mean loss reached, so
that speed is never bought with a weaker attack. Then our step beside the bare forward pass and input gradient in the
same form, and what share of the processor's own matrix product it reaches. Usage:
`python benchmarks/peers.py [MODEL...] [--photos FOLDER] [--steps N] [--rounds N]`. Needs the extra `benchmarks`.

Labels are each network's own guesses. Where no weights are to be had without a network, they are fresh: the time is
that of trained ones.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from latcli.engine.attacks.contract import run_attack
from latcli.engine.attacks.objectives import cross_entropy_odds
from latcli.engine.attacks.pgd import input_gradient, pgd
from latcli.engine.attacks.settings import AttackSettings
from latcli.engine.datasets.base import DatasetSource
from latcli.engine.datasets.catalog import open_dataset
from latcli.engine.devices import open_device
from latcli.engine.folding import folded
from latcli.engine.images import read_photo
from latcli.engine.models.catalog import open_classifier
from latcli.engine.models.imagenet import ClassifierSource
from latcli.engine.models.small import paper_cnn, resnet18
from latcli.engine.noise import item_seeds
from latcli.engine.precision import GradientForm, choose_form, has_bf16_units

Attacker = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Case:
    """A network in evaluation mode, images in [0, 1] with its own guesses as labels, epsilon, and steps of PGD."""

    name: str
    net: nn.Module
    x_BCHW: torch.Tensor
    epsilon: float
    steps: int

    def labels(self) -> torch.Tensor:
        """y_B: what the network sees in the images as they are."""
        with torch.no_grad():
            return self.net(self.x_BCHW).argmax(dim=1)

    @property
    def step(self) -> float:
        """What one step moves, in image scale; the same for all contenders."""
        return 2.5 * self.epsilon / self.steps


def digits(steps: int, batch: int = 256) -> Case:
    data = open_dataset("mnist-5k", DatasetSource(Path("data"), offline=True))
    torch.manual_seed(0)
    net = paper_cnn(data.image_shape, 10)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for chosen_B in torch.randint(0, data.train_count, (150, 128)):
        loss = functional.cross_entropy(net(data.x_train[chosen_B].float() / 255), data.y_train[chosen_B])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Case(f"paper's CNN, 28 px, batch {batch}", net.eval(), data.x_test[:batch].float() / 255, 0.1, steps)


def small_resnet(steps: int, batch: int = 128) -> Case:
    torch.manual_seed(0)
    net = resnet18((3, 32, 32), 10).eval()
    return Case(f"ResNet-18, 32 px, batch {batch}", net, torch.rand(batch, 3, 32, 32), 8 / 255, steps)


def photos(folder: Path | None, size: int, batch: int = 8) -> torch.Tensor:
    """Photos of the folder, of those that matplotlib carries where none is given, repeated to a batch."""
    import matplotlib

    carried = [Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")]
    given = sorted(folder.rglob("*")) if folder else carried
    files = [path for path in given if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    images = [read_photo(path).image.convert("RGB").resize((size, size)) for path in files[:batch]]
    tensors = [torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(size, size, 3) for image in images]
    x_BHWC = torch.stack([tensors[index % len(tensors)] for index in range(batch)]).float() / 255
    return x_BHWC.permute(0, 3, 1, 2).contiguous()


def imagenet(name: str, size: int, folder: Path | None, steps: int) -> Case:
    torch.manual_seed(0)
    if name == "efficientnet_lite0":
        net: nn.Module = open_classifier(name, ClassifierSource(offline=True), torch.device("cpu"))
    else:
        from latcli.engine.vision import import_torchvision

        options = {"init_weights": False} if name == "inception_v3" else {}
        net = getattr(import_torchvision().models, name)(weights=None, **options).eval()
    return Case(f"{name}, {size} px, batch 8", net, photos(folder, size), 8 / 255, steps)


def cases(given: argparse.Namespace) -> dict[str, Callable[[], Case]]:
    return {
        "cnn": lambda: digits(given.steps),
        "resnet18": lambda: small_resnet(given.steps),
        "efficientnet_lite0": lambda: imagenet("efficientnet_lite0", 224, given.photos, given.steps),
        "resnet50": lambda: imagenet("resnet50", 224, given.photos, given.steps),
        "inception_v3": lambda: imagenet("inception_v3", 299, given.photos, given.steps),
    }


def latcli(case: Case, form: GradientForm) -> Attacker:
    settings = AttackSettings(steps=case.steps, schedule="constant")
    eps_B1HW = torch.full_like(case.x_BCHW[:, :1], case.epsilon)
    seeds_B = item_seeds(0, torch.arange(len(case.x_BCHW)))
    y_B = case.labels()
    return lambda: run_attack(pgd, form, case.x_BCHW, y_B, eps_B1HW, settings, seeds_B)


def torchattacks_pgd(case: Case) -> Attacker:
    import torchattacks

    attack = torchattacks.PGD(case.net, eps=case.epsilon, alpha=case.step, steps=case.steps, random_start=True)
    y_B = case.labels()
    return lambda: attack(case.x_BCHW, y_B)


def foolbox_pgd(case: Case) -> Attacker:
    import foolbox

    attack = foolbox.attacks.LinfPGD(abs_stepsize=case.step, steps=case.steps, random_start=True)
    model = foolbox.PyTorchModel(case.net, bounds=(0, 1), device=case.x_BCHW.device)
    y_B = case.labels()
    return lambda: attack(model, case.x_BCHW, y_B, epsilons=case.epsilon)[1]


def art_pgd(case: Case) -> Attacker:
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    x_BCHW, y_B = case.x_BCHW.numpy(), case.labels().numpy()
    shape = tuple(case.x_BCHW.shape[1:])
    classes = int(case.net(case.x_BCHW[:1]).shape[1])
    estimator = PyTorchClassifier(
        case.net, nn.CrossEntropyLoss(), shape, classes, clip_values=(0.0, 1.0), device_type="cpu"
    )
    attack = ProjectedGradientDescent(
        estimator,
        eps=case.epsilon,
        eps_step=case.step,
        max_iter=case.steps,
        num_random_init=1,
        batch_size=len(x_BCHW),
        verbose=False,
    )
    return lambda: torch.from_numpy(attack.generate(x_BCHW, y_B))


def bare(case: Case, form: GradientForm) -> Attacker:
    """Forward pass and input gradient, and nothing else, as often as the attack has steps."""
    y_B = case.labels()

    def loop() -> torch.Tensor:
        for _ in range(case.steps):
            input_gradient(form, case.x_BCHW, y_B, cross_entropy_odds)
        return case.x_BCHW

    return loop


def scored(case: Case, adv_BCHW: torch.Tensor) -> tuple[float, float]:
    """Share of images whose guess is another, and the mean cross entropy, in fp32."""
    y_B = case.labels()
    with torch.no_grad():
        logits_BK = case.net(adv_BCHW)
    wrong = float((logits_BK.argmax(dim=1) != y_B).float().mean())
    return wrong, float(functional.cross_entropy(logits_BK, y_B))


def gigaflops(case: Case) -> float:
    """Of one forward pass, counted by torch, and of the input gradient, which takes the same products again."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        case.net(case.x_BCHW)
    return 2 * counter.get_total_flops() / 1e9


def matrix_peak(dtype: torch.dtype, size: int = 3072) -> float:
    """Gigaflops a second of a square matrix product: the best of several."""
    a, b = torch.rand(size, size).to(dtype), torch.rand(size, size).to(dtype)
    times = []
    for _ in range(6):
        begun = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - begun)
    return 2 * size**3 / min(times) / 1e9


def compare(case: Case, rounds: int) -> None:
    shape: tuple[int, int, int] = tuple(case.x_BCHW.shape[1:])  # type: ignore[assignment]
    without_norms = folded(case.net, shape)
    form = GradientForm(without_norms, choose_form(without_norms, shape, len(case.x_BCHW), "auto"))
    attackers = {
        "latcli": latcli(case, form),
        "torchattacks": torchattacks_pgd(case),
        "foolbox": foolbox_pgd(case),
        "ART": art_pgd(case),
        "bare gradient": bare(case, form),
    }
    found = {name: scored(case, attack()) for name, attack in attackers.items()}  # warms up, too
    times: dict[str, list[float]] = {name: [] for name in attackers}
    for _ in range(rounds):  # in turn, so that whatever else the machine does hits all
        for name, attack in attackers.items():
            begun = time.perf_counter()
            attack()
            times[name].append((time.perf_counter() - begun) / case.steps)
    print(f"\n{case.name}; PGD-{case.steps}, epsilon {case.epsilon:.3g}; {form.form}")
    for name, seconds in times.items():
        ratios = [theirs / ours for theirs, ours in zip(seconds, times["latcli"], strict=True)]
        success, loss = found[name]
        reached = "" if name == "bare gradient" else f"   success {100 * success:6.2f} %   loss {loss:9.3f}"
        spread = f"({min(ratios):.2f}-{max(ratios):.2f})"
        print(f"  {name:13} {1000 * median(seconds):9.1f} ms a step   x{median(ratios):5.2f} {spread:13}{reached}")
    dtype = torch.bfloat16 if form.form.startswith("bf16") else torch.float32
    rate, peak = gigaflops(case) / min(times["latcli"]), matrix_peak(dtype)
    print(f"  {rate:.0f} GFLOP/s of {peak:.0f} in a {str(dtype)[6:]} matrix product: {100 * rate / peak:.0f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="cnn resnet18 efficientnet_lite0 resnet50 ...")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    device = open_device("cpu")
    units = "with" if has_bf16_units(device) else "without"
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {units} bf16 units, ", end=""
    )
    print(f"torch {torch.__version__}; median of {given.rounds} rounds, ratios (lowest-highest) to latcli in each")
    known = cases(given)
    for name in given.models or known:
        if name not in known:
            parser.error(f"there is no model '{name}': {', '.join(known)}")
        compare(known[name](), given.rounds)


if __name__ == "__main__":
    main()
