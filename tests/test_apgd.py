"""APGD follows the paper's algorithm step by step, never leaves the epsilon matrix, and agrees with a peer."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from linear_problems import corner, linear_model, linear_problems
from small_images import CLASSES, Watched, background, convnet, seeds, small_images
from torch.nn import functional

from latcli.engine.attacks.apgd import apgd_ce, apgd_dlr, apgd_t, checkpoints
from latcli.engine.attacks.objectives import cross_entropy_odds, dlr, logit_margin, targeted_dlr
from latcli.engine.attacks.pgd import restart_seeds
from latcli.engine.attacks.settings import AttackSettings
from latcli.engine.attacks.threat import LinfBox

ATTACKS = pytest.mark.parametrize("attack", [apgd_ce, apgd_dlr, apgd_t])


@ATTACKS
@given(linear_problems(), st.integers(1, 6), st.booleans(), st.booleans())
def test_on_a_linear_model_apgd_reaches_the_corner_of_the_box(attack, problem, steps, random_start, targeted):
    """The first step is twice epsilon: from wherever the start is, it ends in the corner."""
    chosen = AttackSettings(steps=steps, random_start=random_start, targeted=targeted)
    adv_1CHW = attack(linear_model(problem), *problem.attacked(), chosen, torch.tensor([3]))
    # Of images whose logits are equal in float32 any may be kept, so the height is compared, not the image.
    best = problem.height(corner(problem, targeted))
    assert problem.height(adv_1CHW) == pytest.approx(best, rel=0, abs=2e-5)


def _two_ways(x_B111):
    """Label 0. Class 1 stands nearer and is never reached; class 2 is, the other way."""
    up_B = x_B111.flatten() - 0.5
    return torch.stack([0 * up_B, -1 + 0.5 * up_B, -2 - 6 * up_B], dim=1)


def test_the_likeliest_classes_are_tried_in_turn():
    for stop_rank in [0, 1]:
        for targets, end in [(1, 1.0), (2, 0.0), (9, 0.0)]:
            half = torch.full((1, 1, 1, 1), 0.5)
            chosen = AttackSettings(steps=10, targets=targets, random_start=False, stop_rank=stop_rank)
            adv_1111 = apgd_t(_two_ways, half, torch.tensor([0]), half, chosen, torch.tensor([0]))
            assert adv_1111.item() == end
            assert targets == 1 or _two_ways(adv_1111).argmax() == 2


def _plain_apgd(net, x, y, start, eps, steps):
    """The iterates of the paper's Algorithm 1 for one image, written down as it stands there."""

    def f(at):
        at = at.clone().requires_grad_()
        value = functional.cross_entropy(net(at), y)
        return value.item(), torch.autograd.grad(value, at)[0]

    def project(z):
        return torch.min(torch.max(z, x - eps), x + eps).clamp(0, 1)

    p = [0.0, 0.22]
    while p[-1] < 1:
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    w = [math.ceil(round(share * steps, 6)) for share in p]
    eta, (value, gradient) = 2 * eps, f(start)
    best_gradient = gradient
    xs, values = [start, project(start + eta * gradient.sign())], [value]
    x_max, f_max, rises, before = start, value, 0, start
    etas, bests = [eta.max().item()], [f_max]  # in force on arriving at each checkpoint
    for k in range(1, steps):
        value, gradient = f(xs[k])
        rises += value > values[-1]
        values.append(value)
        if value > f_max:
            x_max, f_max, best_gradient = xs[k], value, gradient
        x_k = xs[k]
        if k in w[1:]:
            j = w.index(k)
            etas.append(eta.max().item())
            bests.append(f_max)
            if rises < 0.75 * (w[j] - w[j - 1]) or (etas[-1] == etas[-2] and bests[-1] == bests[-2]):
                eta, x_k, values[-1], gradient = eta / 2, x_max, f_max, best_gradient
            rises = 0
        z = project(x_k + eta * gradient.sign())
        xs.append(project(x_k + 0.75 * (z - x_k) + 0.25 * (x_k - before)))
        before = x_k
    return xs


def test_every_iterate_is_that_of_the_papers_algorithm():
    for seed in range(2):
        for steps in [1, 2, 5, 10, 60]:
            # Gradients in double precision: in float32 a sign may flip where one is all but zero.
            double, x_1CHW, eps_11HW = convnet(seed).double(), small_images(1, seed), background(1, 0.08)
            eps_11HW *= torch.rand(eps_11HW.shape, generator=torch.Generator().manual_seed(seed)) + 0.5
            y_1, seeds_1 = torch.tensor([seed]), torch.tensor([seed])
            watched = Watched(lambda x_BCHW, net=double: net(x_BCHW.double()))
            apgd_ce(watched, x_1CHW, y_1, eps_11HW, AttackSettings(steps=steps), seeds_1)
            start_1CHW = LinfBox(x_1CHW, eps_11HW).random_start(restart_seeds(seeds_1, 0))
            expected = _plain_apgd(watched.model, x_1CHW, y_1, start_1CHW, eps_11HW, steps)
            assert len(watched.seen) == len(expected) == steps + 1
            for iterate_1CHW, expected_1CHW in zip(watched.seen, expected, strict=True):
                assert torch.allclose(iterate_1CHW, expected_1CHW, rtol=0, atol=1e-6)


class _Scripted:
    """Two classes; how high an image stands and which way is up are written down for each time it is asked."""

    def __init__(self, heights):
        self.heights, self.asked = heights, 0

    def __call__(self, x_1CHW):
        up_CHW = torch.randn(x_1CHW.shape[1:], generator=torch.Generator().manual_seed(self.asked))
        lead_1 = self.heights[self.asked] + ((x_1CHW - x_1CHW.detach()) * up_CHW).flatten(1).sum(dim=1)
        self.asked += 1
        return torch.stack([torch.zeros_like(lead_1), lead_1], dim=1)


@settings(max_examples=30)
@given(st.lists(st.sampled_from([1, 1, 1, 1, 1, 1, 0, -3, -12]), min_size=30, max_size=30))
def test_steps_are_halved_and_the_best_returned_to_as_in_the_paper(changes):
    """Any course of heights, so that both of the paper's conditions are met and missed."""
    heights = [sum(changes[:count]) / 64 for count in range(31)]
    x_1CHW, eps_11HW = torch.full((1, 1, 4, 4), 0.5), torch.full((1, 1, 4, 4), 0.25)
    watched = Watched(_Scripted(heights))
    chosen = AttackSettings(steps=30, random_start=False)
    apgd_ce(watched, x_1CHW, torch.tensor([0]), eps_11HW, chosen, torch.tensor([0]))
    expected = _plain_apgd(_Scripted(heights), x_1CHW, torch.tensor([0]), x_1CHW, eps_11HW, 30)
    for iterate_1CHW, expected_1CHW in zip(watched.seen, expected, strict=True):
        assert torch.allclose(iterate_1CHW, expected_1CHW, rtol=0, atol=1e-6)


def test_step_sizes_are_looked_at_where_the_paper_says():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(10) == [3, 5, 6, 7, 8, 9]
    assert checkpoints(1) == []
    for steps in range(1, 300):
        found = checkpoints(steps)
        assert all(0 < one < other < steps for one, other in pairwise(found))


def test_the_worst_of_all_iterates_is_kept():
    net, x_BCHW, eps_B1HW = convnet(), small_images(8), background(8, 0.05)
    y_B = net(x_BCHW).argmax(dim=1)
    watched = Watched(net)
    adv_BCHW = apgd_ce(watched, x_BCHW, y_B, eps_B1HW, AttackSettings(steps=20, restarts=2), seeds(8))
    assert len(watched.seen) == 2 * 21
    wins_SB = torch.stack([logit_margin(net(iterate), y_B) > 0 for iterate in watched.seen])
    heights_SB = torch.stack([cross_entropy_odds(net(iterate), y_B) for iterate in watched.seen])
    best_B = torch.where(wins_SB | ~wins_SB.any(dim=0), heights_SB, -math.inf).amax(dim=0)
    assert torch.allclose(cross_entropy_odds(net(adv_BCHW), y_B), best_B, rtol=0, atol=1e-5)
    assert 0 < wins_SB.any(dim=0).sum() < 8


@ATTACKS
def test_an_image_rests_at_the_first_iterate_that_meets_the_stop_rank(attack):
    net, x_BCHW, eps_B1HW = convnet(), small_images(8), background(8, 0.06)
    y_B = net(x_BCHW).argmax(dim=1)
    y_B[0] = (y_B[0] + 1) % CLASSES  # beaten already
    chosen = AttackSettings(steps=12, stop_rank=1, restarts=3, targets=3, random_start=False)
    watched = Watched(net)
    rested_BCHW = attack(watched, x_BCHW, y_B, eps_B1HW, chosen, seeds(8))
    full_BCHW = attack(net, x_BCHW, y_B, eps_B1HW, replace(chosen, stop_rank=0), seeds(8))
    assert torch.equal(rested_BCHW[0], x_BCHW[0])
    won_B = logit_margin(net(rested_BCHW), y_B) > 0
    assert 1 < won_B.sum() < 8
    assert (won_B == (logit_margin(net(full_BCHW), y_B) > 0)).all()
    sizes = [len(seen) for seen in watched.seen[1 if attack is apgd_t else 0 :]]
    assert sizes[0] == 8
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 8 - won_B.sum()


# Apart by 1/16 at least: below that the 1e-12 that guards the division would show.
logits_st = arrays(np.int64, (3, 6), elements=st.integers(-480, 480), unique=True).map(lambda levels: levels / 16)
labels_st = st.lists(st.integers(0, 5), min_size=3, max_size=3)


@given(logits_st, labels_st, st.integers(1, 5), st.integers(2, 6))
def test_ratios_of_logit_differences_are_the_papers(logits, labels, shift, classes):
    logits = logits[:, :classes]
    labels = [label % classes for label in labels]
    targets = [(label + 1 + shift % (classes - 1)) % classes for label in labels]
    targets = [(t + 1) % classes if t == label else t for t, label in zip(targets, labels, strict=True)]
    logits_BK, y_B = torch.from_numpy(logits.astype(np.float32)), torch.tensor(labels)
    found_B, towards_B = dlr(logits_BK, y_B), targeted_dlr(logits_BK, y_B, torch.tensor(targets))
    for row, label, target, found, towards in zip(logits, labels, targets, found_B, towards_B, strict=True):
        z = np.sort(row)[::-1]
        below = z[0] - z[2] if classes > 2 else 1.0
        assert found.item() == pytest.approx((np.delete(row, label).max() - row[label]) / below, rel=1e-4)
        below = z[0] - (z[2] + z[3]) / 2 if classes > 3 else 1.0
        assert towards.item() == pytest.approx((row[target] - row[label]) / below, rel=1e-4)
