"""Accuracy against epsilon and steps: known answers, and that what a sweep reuses never flatters the model."""

import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from linear_problems import linear
from torch import nn

from latcli.engine.attacks.contract import run_attack
from latcli.engine.attacks.pgd import fgsm, pgd
from latcli.engine.attacks.settings import AttackSettings
from latcli.engine.datasets.base import Images
from latcli.engine.evaluation.beyond import fell_at, points_of
from latcli.engine.noise import derive_seed, item_seeds
from latcli.engine.scoring import judge
from latcli.errors import LatcliError, UsageError

SHAPE = (1, 6, 6)
FIXED = AttackSettings(schedule="constant", step=0.05, random_start=False)


def _sweep(axis, attack, fast, score, pairs, values, settings, seed):
    """Where each image fell, and the curve."""
    fell = fell_at(axis, values, attack, fast, score, pairs, settings, seed)
    return SimpleNamespace(fell_at=fell, points=points_of(values, fell))


accuracy_against_epsilon, accuracy_against_steps = partial(_sweep, "epsilon"), partial(_sweep, "steps")


def _weights():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))


def _convnet(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.Tanh(), nn.Conv2d(8, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 4))


def _linear(x_BCHW):
    return linear(_weights())(x_BCHW - 0.5)


def _images(count, net, wrong=0):
    """Images with the labels that the model gives them, but for the first `wrong`."""
    x_BCHW = 0.3 + 0.4 * torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits_BK = net(x_BCHW)
    y_B = logits_BK.argmax(dim=1)
    y_B[:wrong] = (y_B[:wrong] + 1) % logits_BK.shape[1]
    return Images(x_BCHW, y_B, torch.arange(100, 100 + count))


def _background(count):
    share_B1HW = torch.ones(count, 1, *SHAPE[1:])
    share_B1HW[:, :, 2:4, 2:4] = 0.0
    share_B1HW[:, :, 0] = 0.5
    return share_B1HW


def _split(images, matrix_B1HW, size):
    tensors = (images.x_BCHW, images.y_B, images.samples_B, matrix_B1HW)
    return [(Images(x, y, s), m) for x, y, s, m in zip(*(t.split(size) for t in tensors), strict=True)]


def _needed(images, share_B1HW):
    """The epsilon at which each image of the linear model falls: its lead over what one of epsilon takes away."""
    leads_B = (_linear(images.x_BCHW)[:, 0] - _linear(images.x_BCHW)[:, 1]).abs()
    return leads_B / (share_B1HW * _weights().abs()).flatten(1).sum(dim=1)


def test_on_a_linear_model_each_image_falls_at_the_closed_form_s_epsilon():
    images, share_B1HW = _images(60, _linear, wrong=5), _background(60)
    epsilons = [0.004 * k for k in range(1, 16)]
    curve = accuracy_against_epsilon(
        fgsm, _linear, _linear, _split(images, share_B1HW, 25), epsilons, AttackSettings(), seed=0
    )
    needed = _needed(images, share_B1HW).tolist()
    expected = [0.0] * 5 + [next((e for e in epsilons if e > need), None) for need in needed[5:]]
    assert list(curve.fell_at) == expected
    for point in curve.points:
        still = sum(need > point.value for need in needed[5:])
        assert (point.n, point.accuracy) == (60, pytest.approx(still / 60))
    assert [point.value for point in curve.points] == [0.0, *epsilons]
    assert 0 < curve.points[-1].accuracy < curve.points[3].accuracy < curve.points[0].accuracy == 55 / 60


@pytest.mark.parametrize("settings", [FIXED, replace(FIXED, restarts=2, random_start=True, stop_rank=1)])
def test_on_a_linear_model_each_image_falls_at_the_closed_form_s_step(settings):
    images, share_B1HW = _images(60, _linear, wrong=5), _background(60)
    steps = [1, 2, 3, 5, 8, 13, 20, 40]
    curve = accuracy_against_steps(pgd, _linear, _linear, _split(images, share_B1HW * 0.1, 25), steps, settings, seed=0)
    needed = _needed(images, share_B1HW).tolist()
    if settings is FIXED:  # after t steps of 0.05 from the image itself, t/20 of epsilon is used
        expected = [0.0] * 5 + [next((float(t) for t in steps if min(1, t / 20) * 0.1 > e), None) for e in needed[5:]]
        assert list(curve.fell_at) == expected
    # From anywhere in the box, 40 steps of 0.05 lead to its corner.
    assert sum(one is None for one in curve.fell_at) == sum(need > 0.1 for need in needed[5:])


def _alone(pairs, net, settings, scale):
    """Which images an attack that knows nothing of other points leaves right."""
    right = []
    for images, matrix_B1HW in pairs:
        seeds_B = item_seeds(derive_seed(7, "curve"), images.samples_B)
        adv_BCHW = run_attack(pgd, net, images.x_BCHW, images.y_B, matrix_B1HW * scale, settings, seeds_B)
        right += judge(net, adv_BCHW, images.y_B).right_B.tolist()
    return right


@pytest.mark.parametrize("steps", [1, 5])
def test_reuse_over_epsilons_never_flatters_the_model(steps):
    net = _convnet().eval()
    pairs = _split(_images(80, net, wrong=3), _background(80), 30)
    epsilons = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
    settings = AttackSettings(steps=steps)
    curve = accuracy_against_epsilon(pgd, net, net, pairs, epsilons, settings, seed=7)
    fell = [math.inf if one is None else one for one in curve.fell_at]
    alone_until_now = [True] * 80
    for epsilon in epsilons:
        alone = _alone(pairs, net, settings, epsilon)
        alone_until_now = [a and b for a, b in zip(alone_until_now, alone, strict=True)]
        swept = [one > epsilon for one in fell]
        assert not any(s and not a for s, a in zip(swept, alone, strict=True))
        # No more than what attacks of all points up to here, each with all images, find together.
        natural = [one > 0 for one in fell]
        assert swept == [a and n for a, n in zip(alone_until_now, natural, strict=True)]
    accuracies = [point.accuracy for point in curve.points]
    assert accuracies == sorted(accuracies, reverse=True)
    assert 0.0 < accuracies[3] < accuracies[0]
    # Who is attacked at a point is who was right at the one before.
    assert [p.attacked for p in curve.points[1:]] == [round(p.accuracy * 80) for p in curve.points[:-1]]


class _Counting:
    """A model that counts the images it computes gradients for."""

    def __init__(self, net):
        self.net, self.images = net, 0

    def __call__(self, x_BCHW):
        self.images += len(x_BCHW) if x_BCHW.requires_grad else 0
        return self.net(x_BCHW)


def test_who_has_fallen_is_attacked_no_more():
    # Nobody falls at an epsilon this small, so all are attacked to the end.
    for images, expected in ((_images(9, _linear), 9 * (1 + 10 + 30)), (_images(9, _linear, wrong=9), 0)):
        counting, pairs = _Counting(_linear), [(images, _background(9) * 1e-6)]
        accuracy_against_steps(pgd, counting, _linear, pairs, [1, 10, 30], FIXED, seed=0)
        assert counting.images == expected


SWEEPS = [(accuracy_against_epsilon, [0.5, 1.0]), (accuracy_against_steps, [5, 30])]


def test_examples_are_sought_on_the_fast_form_and_judged_on_the_other():
    pairs = [(_images(20, _linear), _background(20) * 0.3)]
    blind = lambda x_BCHW: torch.zeros(len(x_BCHW), 2) + 0 * x_BCHW.sum()  # noqa: E731
    for sweep, values in SWEEPS:
        assert sweep(pgd, blind, _linear, pairs, values, FIXED, seed=0).points[-1].accuracy == 1.0
        assert sweep(pgd, _linear, _linear, pairs, values, FIXED, seed=0).points[-1].accuracy < 1.0


def test_bad_input_is_refused_in_one_line():
    pairs = [(_images(4, _linear), _background(4))]
    nan, descending = float("nan"), [0.2, 0.1]
    refusals = [
        *((accuracy_against_epsilon, one, "not ascending") for one in ([], [0.0, 0.1], descending, [0.1, nan], [nan])),
        (accuracy_against_epsilon, [0.1, 0.1], "not ascending"),
        (accuracy_against_steps, [10, 1], "not ascending"),
    ]
    for sweep, values, message in refusals:
        with pytest.raises(UsageError, match=message):
            sweep(pgd, _linear, _linear, pairs, values, FIXED, seed=0)
    for sweep, _ in SWEEPS:
        with pytest.raises(UsageError, match="targeted"):
            sweep(pgd, _linear, _linear, pairs, [1], replace(FIXED, targeted=True), seed=0)
        with pytest.raises(LatcliError, match="no images"):
            sweep(pgd, _linear, _linear, [], [1], FIXED, seed=0)
