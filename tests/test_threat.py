"""Where an attack may go: the box that the epsilon matrix gives, and the l2 ball cut with it."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from linear_problems import epsilon_st, unit_st

from latcli.engine.attacks.threat import L2BallInBox, LinfBox


@st.composite
def problems(draw, batch=2):
    """x_BCHW, eps_B1HW and a point anywhere, v_BCHW."""
    C, H, W = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    x_BCHW = draw(arrays(np.float32, (batch, C, H, W), elements=unit_st))
    eps_B1HW = draw(arrays(np.float32, (batch, 1, H, W), elements=epsilon_st))
    v_BCHW = draw(arrays(np.float32, (batch, C, H, W), elements=st.floats(-3, 3, width=32)))
    return torch.from_numpy(x_BCHW), torch.from_numpy(eps_B1HW), torch.from_numpy(v_BCHW)


radius_st = st.one_of(st.sampled_from([1e-3, 0.1, 1.0, 100.0]), st.floats(1e-3, 20))


def _bounds(x_BCHW, eps_B1HW):
    return torch.clamp(x_BCHW - eps_B1HW, min=0), torch.clamp(x_BCHW + eps_B1HW, max=1)


def _assert_inside(adv_BCHW, x_BCHW, eps_B1HW):
    low_BCHW, high_BCHW = _bounds(x_BCHW, eps_B1HW)
    assert (adv_BCHW >= low_BCHW).all()
    assert (adv_BCHW <= high_BCHW).all()
    protected = (eps_B1HW == 0).expand_as(x_BCHW)
    assert torch.equal(adv_BCHW[protected], x_BCHW[protected])


@given(problems(), st.floats(0.01, 3))
def test_a_step_moves_each_pixel_by_a_share_of_its_own_epsilon(problem, share):
    x_BCHW, eps_B1HW, gradient_BCHW = problem
    moved_BCHW = LinfBox(x_BCHW, eps_B1HW).move(x_BCHW.clone(), gradient_BCHW.clone(), share)
    _assert_inside(moved_BCHW, x_BCHW, eps_B1HW)
    low_BCHW, high_BCHW = _bounds(x_BCHW, eps_B1HW)
    expected_BCHW = x_BCHW + share * eps_B1HW * torch.sign(gradient_BCHW)
    assert torch.allclose(moved_BCHW, torch.clamp(expected_BCHW, low_BCHW, high_BCHW), atol=1e-6)


def test_any_gradient_above_zero_moves_a_pixel_as_far_and_is_left_alone():
    x_BCHW, eps_B1HW = torch.full((1, 1, 1, 4), 0.5), torch.full((1, 1, 1, 4), 0.1)
    gradient_BCHW = torch.tensor([1e30, -1e-30, 1e-44, 0.0]).view(1, 1, 1, 4)
    moved_BCHW = LinfBox(x_BCHW, eps_B1HW).move(x_BCHW.clone(), gradient_BCHW, 0.5)
    assert torch.allclose(moved_BCHW.flatten(), torch.tensor([0.55, 0.45, 0.55, 0.5]))
    # What autograd returns for a mean over the image: a view that shows one number everywhere.
    one = torch.tensor(-3.0)
    moved_BCHW = LinfBox(x_BCHW, eps_B1HW).move(x_BCHW.clone(), one.expand_as(x_BCHW), 0.5)
    assert torch.allclose(moved_BCHW, torch.tensor(0.45))
    assert one == -3.0


def _dykstra(v_n, low_n, high_n, radius):
    """The nearest point of ball and box to v, by Dykstra's alternating projections; knows nothing of the formula."""
    point, from_ball, from_box = v_n.copy(), np.zeros_like(v_n), np.zeros_like(v_n)
    for _ in range(4000):
        wish = point + from_ball
        length = np.linalg.norm(wish)
        in_ball = wish * min(1.0, radius / length) if length else wish
        from_ball = wish - in_ball
        in_box = np.clip(in_ball + from_box, low_n, high_n)
        from_box = in_ball + from_box - in_box
        if np.abs(in_box - point).max() < 1e-12:
            break
        point = in_box
    return point


@settings(max_examples=40)
@given(problems(batch=1), radius_st)
@example((torch.full((1, 1, 1, 2), 0.5), torch.tensor([[[[0.03, 0.5]]]]), torch.full((1, 1, 1, 2), 0.9)), 0.05)
@example((torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([[[[0.1, 0.5]]]]), torch.tensor([[[[3.0, 0.8]]]])), 0.2)
def test_the_projection_is_the_one_that_alternating_projections_find(problem, radius):
    x_1CHW, eps_11HW, v_1CHW = problem
    low_1CHW, high_1CHW = _bounds(x_1CHW, eps_11HW)
    flat = [(t_1CHW - x_1CHW).double().numpy().ravel() for t_1CHW in (v_1CHW, low_1CHW, high_1CHW)]
    expected_n = _dykstra(*flat, radius)
    found_n = (L2BallInBox(x_1CHW, eps_11HW, radius).project(v_1CHW) - x_1CHW).double().numpy().ravel()
    # As near to v as theirs, which is the promise; and, the nearest point being unique, the same point.
    assert np.linalg.norm(found_n - flat[0]) <= np.linalg.norm(expected_n - flat[0]) + 1e-5
    assert np.abs(found_n - expected_n).max() < 2e-3


@pytest.mark.parametrize(
    ("x", "eps", "gradient", "change"),
    [  # a step of half the radius .2 goes along the gradient of the pixels that are free, and not at their limit
        ([0.5, 0.5, 0.5, 0.5], [1.0, 1.0, 0.0, 0.0], [3.0, -4.0, 100.0, 7.0], [0.06, -0.08, 0.0, 0.0]),
        ([0.5, 0.5, 0.5, 0.5], [1.0, 1.0, 0.0, 0.0], [3e-30, -4e-30, 7.0, 0.0], [0.06, -0.08, 0.0, 0.0]),
        ([0.0, 1.0, 0.5, 0.0], [0.5, 0.5, 0.5, 0.5], [-50.0, 70.0, -0.3, 0.4], [0.0, 0.0, -0.06, 0.08]),
    ],
)
def test_an_l2_step_by_hand(x, eps, gradient, change):
    x_BCHW, eps_B1HW, gradient_BCHW = (torch.tensor(values).view(1, 1, 1, 4) for values in (x, eps, gradient))
    moved_BCHW = L2BallInBox(x_BCHW, eps_B1HW, 0.2).move(x_BCHW.clone(), gradient_BCHW, 0.5)
    assert (moved_BCHW - x_BCHW).flatten().tolist() == pytest.approx(change, abs=1e-6)


def test_the_radius_holds_on_a_photo_of_megapixels():
    """One float32 sum over so many equal squares would be off by more than the contract allows."""
    x_BCHW = torch.full((1, 3, 1200, 1600), 0.5)
    v_BCHW = x_BCHW + 8 / 255
    radius = 4.0
    projected_BCHW = L2BallInBox(x_BCHW, torch.full((1, 1, 1200, 1600), 8 / 255), radius).project(v_BCHW)
    assert (projected_BCHW - x_BCHW).double().norm().item() == pytest.approx(radius, rel=5e-6)
