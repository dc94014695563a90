"""Times PGD beside the peers' PGD on the same network, images, epsilon and steps, in one run, and prints the ratios.

Each peer is used as its documentation says; all results are scored in fp32, by success and by the mean loss reached, so
that speed is never bought with a weaker attack. Then our step beside the bare forward pass and input gradient in the
same form, and what share of the processor's own matrix product it reaches. Usage:
`python -m benchmarks.peers [MODEL...] [--photos FOLDER] [--steps N] [--rounds N] [--batch N]
[--device NAME]`. Needs the extra `benchmarks`; a peer that is not installed is left out.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.photos import add_photos
from benchmarks.problems import Problem, is_installed, problems
from benchmarks.record import Options, Record, begin
from benchmarks.rounds import Rounds, clocked, finished, in_turn
from latcli.engine.attacks.contract import run_attack
from latcli.engine.attacks.objectives import cross_entropy_odds
from latcli.engine.attacks.pgd import input_gradient, pgd
from latcli.engine.attacks.settings import AttackSettings
from latcli.engine.devices import open_device
from latcli.engine.noise import item_seeds
from latcli.engine.precision import GradientForm

Attacker = Callable[[], torch.Tensor]

_BARE = "bare gradient"


def step_size(case: Problem, steps: int) -> float:
    """What one step moves, in image scale; the same for all contenders."""
    return 2.5 * case.epsilon / steps


def latcli(case: Problem, steps: int, form: GradientForm) -> Attacker:
    settings = AttackSettings(steps=steps, schedule="constant")
    eps_B1HW = torch.full_like(case.x_BCHW[:, :1], case.epsilon)
    seeds_B = item_seeds(0, torch.arange(len(case.x_BCHW), device=case.x_BCHW.device))
    y_B = case.labels()
    return lambda: run_attack(pgd, form, case.x_BCHW, y_B, eps_B1HW, settings, seeds_B)


def torchattacks_pgd(case: Problem, steps: int) -> Attacker:
    import torchattacks

    attack = torchattacks.PGD(case.net, eps=case.epsilon, alpha=step_size(case, steps), steps=steps, random_start=True)
    y_B = case.labels()
    return lambda: attack(case.x_BCHW, y_B)


def foolbox_pgd(case: Problem, steps: int) -> Attacker:
    import foolbox

    attack = foolbox.attacks.LinfPGD(abs_stepsize=step_size(case, steps), steps=steps, random_start=True)
    model = foolbox.PyTorchModel(case.net, bounds=(0, 1), device=case.x_BCHW.device)
    y_B = case.labels()
    return lambda: attack(model, case.x_BCHW, y_B, epsilons=case.epsilon)[1]


def art_pgd(case: Problem, steps: int) -> Attacker:
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    x_BCHW, y_B = case.x_BCHW.cpu().numpy(), case.labels().cpu().numpy()
    shape = tuple(case.x_BCHW.shape[1:])
    classes = int(case.net(case.x_BCHW[:1]).shape[1])
    device = "gpu" if case.x_BCHW.is_cuda else "cpu"
    estimator = PyTorchClassifier(
        case.net, nn.CrossEntropyLoss(), shape, classes, clip_values=(0.0, 1.0), device_type=device
    )
    attack = ProjectedGradientDescent(
        estimator,
        eps=case.epsilon,
        eps_step=step_size(case, steps),
        max_iter=steps,
        num_random_init=1,
        batch_size=len(x_BCHW),
        verbose=False,
    )
    return lambda: torch.from_numpy(attack.generate(x_BCHW, y_B)).to(case.x_BCHW.device)


def bare(case: Problem, steps: int, form: GradientForm) -> Attacker:
    """Forward pass and input gradient, and nothing else, as often as the attack has steps."""
    y_B = case.labels()

    def loop() -> torch.Tensor:
        for _ in range(steps):
            input_gradient(form, case.x_BCHW, y_B, cross_entropy_odds)
        return case.x_BCHW

    return loop


def scored(case: Problem, adv_BCHW: torch.Tensor) -> tuple[float, float]:
    """Share of images whose guess is another, and the mean cross entropy, in fp32."""
    y_B = case.labels()
    with torch.no_grad():
        logits_BK = case.net(adv_BCHW)
    wrong = float((logits_BK.argmax(dim=1) != y_B).float().mean())
    return wrong, float(functional.cross_entropy(logits_BK, y_B))


def gigaflops(case: Problem) -> float:
    """Of one forward pass, counted by torch, and of the input gradient, which takes the same products again."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        case.net(case.x_BCHW)
    return 2 * counter.get_total_flops() / 1e9


def matrix_peak(dtype: torch.dtype, device: torch.device) -> float:
    """Gigaflops a second of a square matrix product: the best of several."""
    size = 8192 if device.type == "cuda" else 3072
    a, b = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))
    product, times = finished(lambda: a @ b, device), []
    for _ in range(6):
        begun = time.perf_counter()
        product()
        times.append(time.perf_counter() - begun)
    return 2 * size**3 / min(times) / 1e9


#: Name, the package it is in, and its PGD. Imported where it is used: each costs seconds, and may not be there.
PEERS: tuple[tuple[str, str, Callable[[Problem, int], Attacker]], ...] = (
    ("torchattacks", "torchattacks", torchattacks_pgd),
    ("foolbox", "foolbox", foolbox_pgd),
    ("ART", "art", art_pgd),
)


def _as_torch_comes(attack: Attacker) -> Attacker:
    """With TF32 on a GPU, which latcli turns off for its scores."""

    def run() -> torch.Tensor:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
            return attack()

    return run


def contenders(case: Problem, steps: int, form: GradientForm) -> dict[str, Attacker]:
    """Ours, the peers that are installed, and the bare gradient."""
    installed = {name: _as_torch_comes(attack(case, steps)) for name, package, attack in PEERS if is_installed(package)}
    return {"latcli": latcli(case, steps, form), **installed, _BARE: bare(case, steps, form)}


def compare(case: Problem, steps: int, rounds: int, record: Record) -> None:
    form = case.gradient_form()
    attackers = contenders(case, steps, form)
    reached = {name: scored(case, attack()) for name, attack in attackers.items()}  # warms up, too
    device = case.x_BCHW.device
    found = in_turn([clocked(name, finished(attack, device)) for name, attack in attackers.items()], rounds)
    print(f"\n{case.name}; PGD-{steps}, epsilon {case.epsilon:.3g}; {form.form}")
    for name in attackers:
        ratio, milliseconds = found.ratio(name, "latcli"), 1000 * found.time(name).median / steps
        success, loss = (None, None) if name == _BARE else reached[name]
        told = "" if success is None else f" success {100 * success:6.2f} % loss {loss:8.3f}"
        print(f"  {name:13} {milliseconds:8.3g} ms a step x{ratio.median:5.2f} ({ratio.range}){told}")
        record.add("steps", problem=case.name, name=name, ms_a_step=milliseconds, success=success, loss=loss)
        if name != "latcli":
            both = () if success is None else (100 * reached["latcli"][0], 100 * success)
            record.add_ratio(case.name, name, ratio, both)
    share_of_peak(case, steps, form, found, record)


def share_of_peak(case: Problem, steps: int, form: GradientForm, found: Rounds, record: Record) -> None:
    """What our best round reaches of this device's matrix product in the same number format."""
    dtype = torch.bfloat16 if form.form.startswith("bf16") else torch.float32
    rate, peak = gigaflops(case) * steps / found.time("latcli").lowest, matrix_peak(dtype, case.x_BCHW.device)
    print(f"  {rate:.0f} GFLOP/s of {peak:.0f} in a {str(dtype)[6:]} matrix product: {100 * rate / peak:.0f} %")
    record.add("peak", problem=case.name, form=form.form, gigaflops=rate, matrix_product=peak, share=rate / peak)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Options(__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="cnn resnet18 efficientnet_lite0 resnet50 ...")
    add_photos(parser)
    parser.sized("steps", 5, 2)
    parser.sized("rounds", 5, 2)
    parser.add_argument("--batch", type=int, default=8, help="photos in a batch; default: 8")
    parser.add_argument("--device", default="cpu", help="as `latcli --device` takes it; default: cpu")
    given = parser.read(arguments)
    warnings.filterwarnings("ignore")
    device = open_device(given.device)
    known = problems(given.photos, given.batch)
    unknown = [name for name in given.models if name not in known]
    if unknown:
        parser.error(f"there is no model '{unknown[0]}': {', '.join(known)}")
    record = begin("peers", given)
    for name, package, _ in PEERS:
        if not is_installed(package):
            record.note(f"{name} is not installed and left out: pip install 'latcli[benchmarks]'")
    for name in given.models or (["cnn", "efficientnet_lite0"] if given.quick else known):
        compare(known[name]().on(device), given.steps, given.rounds, record)
    record.finish(given.out)


if __name__ == "__main__":
    main()
