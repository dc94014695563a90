"""One input gradient in each form, on the five networks: how close the rule's choice comes to the fastest.

All forms of a network in turn, in one process. Usage: `python -m benchmarks.forms [MODEL...] [--batch N] [--rounds N]`.
On a GPU, if there is one. Legend: B images, C channels, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from benchmarks.problems import Problem, problems
from benchmarks.record import Options, Record, begin
from benchmarks.rounds import clocked, in_turn
from latcli.engine.attacks.objectives import cross_entropy_odds
from latcli.engine.attacks.pgd import repeated_gradient
from latcli.engine.devices import open_device
from latcli.engine.precision import FORMS, GradientForm, gradient_model


def gradient(model: GradientForm, x_BCHW: torch.Tensor, y_B: torch.Tensor) -> Callable[[], float]:
    """What computes one gradient as an attack of many steps does, and waits for the device."""
    return lambda: repeated_gradient(model, x_BCHW, y_B, cross_entropy_odds)[0].sum().item()


def compare(case: Problem, batch: int, rounds: int, record: Record) -> None:
    """Time all forms of one network, and print how many times as long as the fastest the chosen one takes."""
    device = open_device("auto")
    case = case.on(device)
    net, x_BCHW, y_B = case.net, case.x_BCHW[:batch], case.labels()[:batch]
    chosen = gradient_model(net, case.image_shape)
    models = {form: gradient_model(net, case.image_shape, form=form) for form in FORMS}
    usable = {form: model for form, model in models.items() if model.form == form}
    measures = [clocked(form, gradient(model, x_BCHW, y_B)) for form, model in usable.items()]
    in_turn(measures, 3)  # warms up
    found = in_turn(measures, rounds)
    best = min(usable, key=lambda form: found.time(form).lowest)
    ratio = found.time(chosen.form).lowest / found.time(best).lowest
    print(f"\n{case.name.partition(', batch')[0]}, batch {len(x_BCHW)}, {device}")
    for form in usable:
        time = found.time(form)
        mark = "  chosen" if form == chosen.form else ""
        print(f"  {form:20} {1000 * time.lowest:9.2f} ms (lowest) {1000 * time.median:9.2f} ms (median){mark}")
        record.add("forms", problem=case.name, form=form, ms_lowest=1000 * time.lowest, ms_median=1000 * time.median)
    print(f"  the chosen one takes {ratio:.3f} times as long as the fastest")
    record.add("choice", problem=case.name, chosen=chosen.form, fastest=best, ratio=ratio)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Options(__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(problems(None))}; default: all")
    parser.sized("batch", 8, 2)
    parser.sized("rounds", 7, 1)
    given = parser.read(arguments)
    record = begin("forms", given)
    for name in given.models or problems(None):
        if name not in problems(None):
            parser.error(f"there is no model '{name}': {', '.join(problems(None))}")
        compare(problems(None, given.batch)[name](), given.batch, given.rounds, record)
    record.finish(given.out)


if __name__ == "__main__":
    main()
