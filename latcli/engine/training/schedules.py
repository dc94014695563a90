"""Learning rate and epsilon as functions of the step alone, so that a resumed run needs no memory of them."""

from __future__ import annotations

import math

from latcli.engine.training.presets import RateSchedule

#: Share of the steps in which a one-cycle rate climbs to its peak (Smith, 2018).
_CLIMB = 0.2


def rate_at(schedule: RateSchedule, step: int, steps: int, peak: float) -> float:
    """The learning rate of step `step` (from 0) of `steps`: constant, or a linear climb and a cosine fall to near 0."""
    if schedule == "constant":
        return peak
    climb = max(1, round(_CLIMB * steps))
    if step < climb:
        return peak * (step + 1) / climb
    fallen = (step - climb + 1) / (steps - climb + 1)
    return peak * 0.5 * (1.0 + math.cos(math.pi * fallen))


def epsilon_at(step: int, steps: int, warm_up: float, epsilon: float) -> float:
    """Epsilon of step `step`: grows linearly over the first `warm_up` (a share) of the steps, then stays.

    Against the whole of a large epsilon from the start, a fresh network only learns to answer always the same.
    """
    growing = warm_up * steps
    return epsilon if step >= growing else epsilon * (step + 1) / (growing + 1)
