"""MI-FGSM: a peer's iterates to the bit, the corner on a linear model, and an image at rest."""

from __future__ import annotations

import pytest
import torch
import torchattacks
from hypothesis import given
from hypothesis import strategies as st
from linear_problems import Problem, corner, linear_model, linear_problems
from small_images import SIDE, convnet, seeds, small_images

from latcli.engine.attacks.pgd import mi_fgsm
from latcli.engine.attacks.settings import AttackSettings


@pytest.mark.parametrize(("steps", "share"), [(1, 1.0), (6, 0.25), (10, 0.1)])
def test_every_iterate_is_the_peers(steps: int, share: float) -> None:
    net, x_BCHW, epsilon = convnet(), small_images(16), 8 / 255
    y_B = net(x_BCHW).argmax(dim=1)
    theirs = torchattacks.MIFGSM(net, eps=epsilon, alpha=share * epsilon, steps=steps, decay=1.0)
    eps_B1HW = torch.full((16, 1, SIDE, SIDE), epsilon)
    given_step = None if share == 1 / steps else share  # without one, the paper's 1/steps
    adv_BCHW = mi_fgsm(net, x_BCHW, y_B, eps_B1HW, AttackSettings(steps=steps, step=given_step), seeds(16))
    assert torch.allclose(adv_BCHW, theirs(x_BCHW, y_B), rtol=0, atol=1e-6)


@given(linear_problems(), st.integers(1, 9), st.booleans())
def test_on_a_linear_model_it_ends_in_the_corner(problem: Problem, steps: int, targeted: bool) -> None:
    chosen = AttackSettings(steps=steps, targeted=targeted)
    adv_1CHW = mi_fgsm(linear_model(problem), *problem.attacked(), chosen, torch.tensor([0]))
    assert torch.allclose(adv_1CHW, corner(problem, targeted), rtol=0, atol=2e-6)
