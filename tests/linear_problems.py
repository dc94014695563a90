"""Linear models of two classes, and images, labels and epsilon matrices for them: the worst case is a corner."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from latcli.engine.attacks.settings import Model

weight_st = st.floats(1 / 64, 1, width=32).flatmap(lambda value: st.sampled_from([value, -value]))
unit_st = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1, width=32))
epsilon_st = st.one_of(st.sampled_from([0.0, 8 / 255, 1.0]), st.floats(0, 1, width=32))


def linear_model(weights_CHW: np.ndarray) -> Model:
    """Two classes; the first one's lead over the second is -weights . x."""
    w_n = torch.from_numpy(weights_CHW.ravel())

    def classify(x_BCHW: torch.Tensor) -> torch.Tensor:
        lead_B = x_BCHW.flatten(1) @ w_n
        return torch.stack([-lead_B / 2, lead_B / 2], dim=1)

    return classify


@st.composite
def linear_problems(draw: st.DrawFn) -> tuple[np.ndarray, torch.Tensor, torch.Tensor, int]:
    """weights_CHW, x_1CHW, eps_11HW and a label."""
    C, H, W = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    weights_CHW = draw(arrays(np.float32, (C, H, W), elements=weight_st))
    x_CHW = draw(arrays(np.float32, (C, H, W), elements=unit_st))
    eps_HW = draw(arrays(np.float32, (H, W), elements=epsilon_st))
    return weights_CHW, torch.from_numpy(x_CHW)[None], torch.from_numpy(eps_HW)[None, None], draw(st.integers(0, 1))


def corner(
    weights_CHW: np.ndarray, x_1CHW: torch.Tensor, eps_11HW: torch.Tensor, label: int, targeted: bool = False
) -> torch.Tensor:
    """The worst allowed image: every value at that end of its box which leads away from the label (or to it)."""
    upwards = 1 if (label == 0) != targeted else -1
    return (x_1CHW + eps_11HW * upwards * torch.from_numpy(np.sign(weights_CHW))).clamp(0, 1)
