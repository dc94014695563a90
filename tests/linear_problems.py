"""Linear models of two classes, and images, labels and epsilon matrices for them: the worst case is a corner."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from latcli.engine.attacks.settings import Model

weight_st = st.floats(1 / 64, 1, width=32).flatmap(lambda value: st.sampled_from([value, -value]))
unit_st = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1, width=32))
epsilon_st = st.one_of(st.sampled_from([0.0, 8 / 255, 1.0]), st.floats(0, 1, width=32))


@dataclass(frozen=True)
class Problem:
    """The weights of a linear model, an image and its label, and where it may go."""

    weights_CHW: torch.Tensor
    x_1CHW: torch.Tensor
    eps_11HW: torch.Tensor
    label: int

    def attacked(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What an attack takes after the model: x_1CHW, y_1, eps_11HW."""
        return self.x_1CHW, torch.tensor([self.label]), self.eps_11HW

    def height(self, x_1CHW: torch.Tensor) -> float:
        """weights . x in float64."""
        return float((x_1CHW[0].double() * self.weights_CHW.double()).sum())


def linear(weights_CHW: torch.Tensor) -> Model:
    """Two classes; the first one's lead over the second is -weights . x."""

    def classify(x_BCHW: torch.Tensor) -> torch.Tensor:
        lead_B = x_BCHW.flatten(1) @ weights_CHW.flatten()
        return torch.stack([-lead_B / 2, lead_B / 2], dim=1)

    return classify


def linear_model(problem: Problem) -> Model:
    return linear(problem.weights_CHW)


@st.composite
def linear_problems(draw: st.DrawFn) -> Problem:
    C, H, W = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    weights_CHW = draw(arrays(np.float32, (C, H, W), elements=weight_st))
    x_1CHW = draw(arrays(np.float32, (1, C, H, W), elements=unit_st))
    eps_11HW = draw(arrays(np.float32, (1, 1, H, W), elements=epsilon_st))
    return Problem(*map(torch.from_numpy, (weights_CHW, x_1CHW, eps_11HW)), draw(st.integers(0, 1)))


def corner(problem: Problem, targeted: bool = False) -> torch.Tensor:
    """The worst allowed image: every value at that end of its box which leads away from the label (or to it)."""
    upwards = 1 if (problem.label == 0) != targeted else -1
    return (problem.x_1CHW + problem.eps_11HW * upwards * problem.weights_CHW.sign()).clamp(0, 1)
