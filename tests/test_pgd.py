"""PGD finds what there is to find inside the epsilon matrix, keeps the worst case, and rests when it is told to."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchattacks
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from linear_problems import corner, linear_model, linear_problems
from small_images import SIDE, background, convnet, seeds, small_images
from torch.nn import functional

from latcli.engine.attacks.objectives import cross_entropy_odds, logit_margin, objective_for, odds_slope, reached
from latcli.engine.attacks.pgd import fgsm, mi_fgsm, pgd, restart_seeds
from latcli.engine.attacks.settings import SCHEDULES, AttackSettings
from latcli.engine.noise import uniform_noise
from latcli.errors import UsageError


@settings(max_examples=60)
@given(
    linear_problems(),
    st.sampled_from([AttackSettings(steps=s, schedule=k) for s in (1, 10, 25) for k in SCHEDULES]),
    st.sampled_from(["ce", "margin"]),
    st.booleans(),
    st.booleans(),
)
def test_on_a_linear_model_pgd_reaches_the_corner_of_the_box(problem, chosen, objective, random_start, targeted):
    # One step goes from the middle to the corner; from a random start it takes two.
    chosen = replace(chosen, objective=objective, random_start=random_start and chosen.steps > 1, targeted=targeted)
    adv_1CHW = pgd(linear_model(problem), *problem.attacked(), chosen, torch.tensor([3]))
    assert torch.allclose(adv_1CHW, corner(problem, targeted), rtol=0, atol=3e-7)


@given(arrays(np.float32, (3, 5), elements=st.floats(-50, 50, width=32)))
def test_the_known_slope_of_the_log_odds_is_their_gradient(logits):
    logits_BK, y_B = torch.from_numpy(logits).requires_grad_(), torch.tensor([0, 2, 4])
    (expected_BK,) = torch.autograd.grad(cross_entropy_odds(logits_BK, y_B).sum(), logits_BK)
    assert torch.allclose(odds_slope(logits_BK.detach(), y_B), expected_BK, rtol=1e-4, atol=1e-6)


def _best_in_ball_and_box(gradient_n, low_n, high_n, radius):
    """The change of length <= radius inside the box that goes furthest along the gradient.

    A linear function is largest where all that is not at its limit is proportional to its gradient.
    """
    limits_n = np.where(gradient_n > 0, high_n, low_n)
    if np.linalg.norm(limits_n) <= radius:
        return limits_n
    shortest, longest = 0.0, 1e9
    for _ in range(200):
        middle = (shortest + longest) / 2
        fits = np.linalg.norm(np.clip(middle * gradient_n, low_n, high_n)) <= radius
        shortest, longest = (middle, longest) if fits else (shortest, middle)
    return np.clip(shortest * gradient_n, low_n, high_n)


@given(linear_problems(), st.sampled_from([0.02, 0.3, 1.0, 50.0]), st.booleans(), st.sampled_from(["linear", "cosine"]))
def test_on_a_linear_model_l2_pgd_reaches_the_best_of_ball_and_box(problem, radius, random_start, schedule):
    chosen = AttackSettings(steps=50, step=0.5, schedule=schedule, norm="l2", radius=radius, random_start=random_start)
    adv_1CHW = pgd(linear_model(problem), *problem.attacked(), chosen, torch.tensor([3]))
    gradient_n = problem.weights_CHW.double().numpy().ravel() * (1 if problem.label == 0 else -1)
    x_n = problem.x_1CHW.double().numpy().ravel()
    eps_n = problem.eps_11HW.expand_as(problem.x_1CHW).double().numpy().ravel()
    best_n = _best_in_ball_and_box(gradient_n, np.maximum(-eps_n, -x_n), np.minimum(eps_n, 1 - x_n), radius)
    found_n = adv_1CHW.double().numpy().ravel() - x_n
    assert gradient_n @ found_n >= 0.99 * (gradient_n @ best_n) - 1e-6
    assert np.linalg.norm(found_n) <= radius * (1 + 1e-5)


def _plain_pgd(net, x, y, eps, step, steps):
    """PGD as in the papers: cross entropy, a constant epsilon, a constant step, no random start."""
    adv = x.clone()
    for _ in range(steps):
        adv.requires_grad_()
        gradient = torch.autograd.grad(functional.cross_entropy(net(adv), y, reduction="sum"), adv)[0]
        adv = adv.detach() + step * gradient.sign()
        adv = torch.min(torch.max(adv, x - eps), x + eps).clamp(0, 1)
    return adv


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_every_iterate_is_that_of_a_plain_pgd(steps):
    net, x_BCHW, y_B, eps = convnet(), small_images(6), torch.arange(6), 0.05
    chosen = AttackSettings(steps=steps, step=0.3, schedule="constant", random_start=False)
    adv_BCHW = pgd(net, x_BCHW, y_B, torch.full((6, 1, SIDE, SIDE), eps), chosen, seeds(6))
    assert torch.allclose(adv_BCHW, _plain_pgd(net, x_BCHW, y_B, eps, 0.3 * eps, steps), rtol=0, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_single_step_moves_every_free_pixel_by_its_epsilon_and_is_fgsm(schedule):
    net, x_BCHW, y_B, eps_B1HW = convnet(), 0.25 + small_images(4) / 2, torch.arange(4), background(4)
    chosen = AttackSettings(steps=1, schedule=schedule, random_start=False)
    adv_BCHW = pgd(net, x_BCHW, y_B, eps_B1HW, chosen, seeds(4))
    assert torch.allclose((adv_BCHW - x_BCHW).abs(), eps_B1HW.expand_as(x_BCHW), rtol=0, atol=1e-6)
    before_B, after_B = (functional.cross_entropy(net(t), y_B, reduction="none") for t in (x_BCHW, adv_BCHW))
    assert (after_B > before_B).all()
    assert torch.equal(fgsm(net, x_BCHW, y_B, eps_B1HW, AttackSettings(steps=7, restarts=3), seeds(4)), adv_BCHW)


@pytest.mark.parametrize("objective", ["ce", "margin"])
def test_confident_models_are_attacked_like_any_other(objective):
    """Peers freeze where the gradient of the cross entropy underflows; such a model only looks robust."""
    net, x_BCHW, eps_B1HW = convnet(), 0.25 + small_images(8) / 2, background(8, 0.2)
    y_B = net(x_BCHW).argmax(dim=1)
    with torch.no_grad():
        net[-1].weight.mul_(1e5)
        net[-1].bias.mul_(1e5)
    at_BCHW = x_BCHW.clone().requires_grad_()
    (faded_BCHW,) = torch.autograd.grad(functional.cross_entropy(net(at_BCHW), y_B, reduction="sum"), at_BCHW)
    assert not faded_BCHW.any()
    adv_BCHW = pgd(
        net, x_BCHW, y_B, eps_B1HW, AttackSettings(steps=20, objective=objective, random_start=False), seeds(8)
    )
    assert torch.equal(adv_BCHW != x_BCHW, (eps_B1HW > 0).expand_as(x_BCHW))
    assert (net(adv_BCHW).argmax(dim=1) != y_B).all()


# One grey pixel; class 0 is the label. A start in the upper half climbs to 1, one in the lower half to 0.


def _two_valleys(upper, lower, middle=-20.0):
    """Logits of two other classes, at the end of the upper and of the lower half, and in the middle."""

    def classify(x_B111):
        place_B1 = 2 * (x_B111.flatten(1) - 0.5)
        up_B2 = middle + (torch.tensor(upper) - middle) * place_B1
        down_B2 = middle - (torch.tensor(lower) - middle) * place_B1
        return torch.cat([torch.zeros(len(place_B1), 1), torch.where(place_B1 > 0, up_B2, down_B2)], dim=1)

    return classify


def _climb(model, seeds_B, **more):
    half = torch.full((len(seeds_B), 1, 1, 1), 0.5)
    chosen = AttackSettings(**({"steps": 10} | more))
    return pgd(model, half, torch.zeros(len(seeds_B), dtype=torch.int64), half, chosen, seeds_B).flatten()


HAIR_ABOVE = ((0.1, -20.0), (-0.1, -0.1))
BOTH_WIN = ((5.0, -20.0), (2.0, 2.0))


def test_each_image_keeps_its_worst_restart():
    for upper, lower, more in [
        # above, the label is beaten by a hair; below, it is not, though the cross entropy is higher there
        (*HAIR_ABOVE, {"step": 1.0, "schedule": "constant"}),
        (*HAIR_ABOVE, {"steps": 1, "step": 1.0, "schedule": "constant"}),
        # above, the target stands first by a hair; below, it does not, though the cross entropy is lower there
        ((-0.1, -0.1), (0.1, -20.0), {"targeted": True}),
        # both win: the higher one is kept
        (*BOTH_WIN, {"objective": "ce"}),
        (*BOTH_WIN, {"objective": "margin"}),
        # the lower valley is the worse case: an image that was there once stays, wherever later restarts end
        ((-1.0, -20.0), (5.0, -20.0), {}),
        # above, two classes pass the label and the image rests; below, one does, and by far
        ((1.0, 1.0), (9.0, -20.0), {"stop_rank": 2, "steps": 40}),
        # no restart meets the stop rank: a beaten label is kept
        (*HAIR_ABOVE, {"stop_rank": 2}),
        (*HAIR_ABOVE, {"stop_rank": 1, "stop_margin": 0.25}),
    ]:
        for restarts in [1, 2, 5]:
            model = _two_valleys(upper, lower, 20.0 if "targeted" in more else -20.0)
            ends_B = _climb(model, seeds(64), restarts=restarts, **more)
            starts = [
                uniform_noise(restart_seeds(seeds(64), index), (1, 1, 1)).flatten() > 0.5 for index in range(restarts)
            ]
            one_is_enough = upper != (-1.0, -20.0)
            expected_B = torch.stack(starts).any(dim=0) if one_is_enough else torch.stack(starts).all(dim=0)
            assert restarts > 2 or 0 < expected_B.sum() < 64
            assert torch.equal(ends_B > 0.5, expected_B)


def _stop(rank, **more):
    settled = {"steps": 12, "step": 0.1, "schedule": "constant", "random_start": False, "stop_rank": rank} | more
    return AttackSettings(**settled)


def test_an_image_rests_at_the_first_iterate_that_meets_the_stop_rank():
    for margin in [0.0, 0.05]:
        for rank, epsilon in [(1, 0.08), (3, 0.2), (10, 0.4)]:
            net, x_BCHW, eps_B1HW = convnet(), small_images(16), background(16, epsilon)
            y_B = net(x_BCHW).argmax(dim=1)
            y_B[0] = net(x_BCHW).argmin(dim=1)[0]  # beaten as it is
            chosen = _stop(rank, stop_margin=margin)
            rested_BCHW = pgd(net, x_BCHW, y_B, eps_B1HW, chosen, seeds(16))
            iterates = [x_BCHW]
            for steps in range(1, 13):
                iterates.append(pgd(net, x_BCHW, y_B, eps_B1HW, replace(chosen, steps=steps, stop_rank=0), seeds(16)))
            rests = []
            for image, label in enumerate(y_B):
                logits = [net(iterate_BCHW)[image] for iterate_BCHW in iterates]
                met = [i for i, logits_K in enumerate(logits) if (logits_K > logits_K[label] + margin).sum() >= rank]
                rests.append(met[0] if met else 12)
                assert torch.allclose(rested_BCHW[image], iterates[rests[-1]][image], rtol=0, atol=1e-6)
            # Each in its own time, some late or never; who rests early has changed less.
            assert rests[0] == 0
            assert len(set(rests)) > 3
            early_B = torch.tensor(rests) < 12
            changes = [(t_BCHW - x_BCHW).flatten(1).norm(dim=1)[early_B] for t_BCHW in (rested_BCHW, iterates[12])]
            assert changes[0].mean() < 0.95 * changes[1].mean()


def test_schedules_have_known_steps():
    for chosen, expected in [
        (AttackSettings(steps=40, schedule="constant"), [0.0625] * 40),
        (AttackSettings(steps=40, schedule="linear"), [0.25 * (1 - i / 40) for i in range(40)]),
        (AttackSettings(steps=40), [0.125 * (1 + math.cos(math.pi * i / 40)) for i in range(40)]),
        (AttackSettings(steps=2, schedule="constant"), [1.0, 1.0]),
        (AttackSettings(steps=4, schedule="linear"), [1.0, 0.75, 0.5, 0.25]),
        (AttackSettings(steps=2), [1.0, 0.5]),
        (AttackSettings(steps=3, step=0.5, schedule="constant"), [0.5, 0.5, 0.5]),
        (AttackSettings(steps=4, step=2.0, schedule="linear"), [2.0, 1.5, 1.0, 0.5]),
        (AttackSettings(steps=2, step=0.3), [0.3, 0.15]),
    ]:
        assert [chosen.step_at(index) for index in range(chosen.steps)] == pytest.approx(expected)


REFUSED = [
    *(({"steps": steps}, "at least one step") for steps in (0, -3)),
    ({"restarts": 0}, "one restart"),
    *(({"step": step}, f"step size is {step:g}") for step in (0.0, -0.1, math.nan, math.inf)),
    *((one, "--norm l2 and --radius belong together") for one in ({"norm": "l2"}, {"radius": 3.0})),
    *(({"norm": "l2", "radius": one}, f"radius is {one:g}") for one in (0.0, -1.0, math.nan, math.inf)),
    ({"norm": "L2"}, "no norm called 'L2'"),
    ({"objective": "cw"}, "no objective called 'cw'"),
    *(({"objective": f"topk:{count}"}, "needs a whole number above 0") for count in ("0", "ten")),
    ({"objective": "top10", "targeted": True}, "cannot be used with a target"),
    ({"schedule": "cosin"}, "no schedule called 'cosin'"),
    ({"stop_rank": -1}, "stop rank"),
    *(({"stop_rank": 1, "stop_margin": margin}, "stop rank") for margin in (-0.5, math.nan)),
]


def test_settings_that_cannot_be_meant_are_refused():
    for wrong, message in REFUSED:
        with pytest.raises(UsageError, match=message) as raised:
            AttackSettings(**wrong)
        assert raised.value.hint


logits_st = arrays(np.float32, (4, 6), elements=st.one_of(st.integers(-3, 3).map(float), st.floats(-30, 30, width=32)))
labels_st = st.lists(st.integers(0, 5), min_size=4, max_size=4)


@given(logits_st, labels_st)
def test_cross_entropy_is_the_softplus_of_its_odds(logits, labels):
    logits_BK, y_B = torch.from_numpy(logits), torch.tensor(labels)
    odds_B = cross_entropy_odds(logits_BK, y_B)
    expected_B = functional.cross_entropy(logits_BK.double(), y_B, reduction="none")
    assert torch.allclose(functional.softplus(odds_B.double()), expected_B, rtol=1e-5, atol=1e-5)


@given(logits_st, labels_st, st.integers(1, 8), st.sampled_from([0.0, 0.25, 1.0]))
def test_a_rank_is_reached_when_so_many_classes_stand_above_the_label(logits, labels, rank, margin):
    logits_BK, y_B = torch.from_numpy(logits), torch.tensor(labels)
    chosen = AttackSettings(stop_rank=rank, stop_margin=margin)
    met_B = reached(logits_BK, y_B, chosen, rank)
    first_B = reached(logits_BK, y_B, replace(chosen, targeted=True), rank)
    for row, label, met, first in zip(logits, labels, met_B.tolist(), first_B.tolist(), strict=True):
        others = np.delete(row, label)
        assert met == ((others > row[label] + np.float32(margin)).sum() >= min(rank, 5))
        assert first == bool((row[label] > others + np.float32(margin)).all())
    assert torch.equal(logit_margin(logits_BK, y_B) > 0, reached(logits_BK, y_B, AttackSettings()))


def test_the_margins_of_the_largest_others_are_summed_up_to_what_is_safely_won():
    for objective, expected in [
        # the other logits lead the label's (1) by 1.5, -1, -3 and 7, the last of which counts as SAFELY_WON = 2
        ("topk:1", 2.0),
        ("topk:2", 2.0 + 1.5),
        ("topk:3", 2.0 + 1.5 - 1.0),
        ("top10", 2.0 + 1.5 - 1.0 - 3.0),
        ("margin", 7.0),
    ]:
        logits_BK = torch.tensor([[1.0, 2.5, 0.0, -2.0, 8.0]], requires_grad=True)
        climbed_B = objective_for(AttackSettings(objective=objective))(logits_BK, torch.tensor([0]))
        assert climbed_B.item() == expected
        (gradient_BK,) = torch.autograd.grad(climbed_B.sum(), logits_BK)
        if objective == "topk:3":  # what is safely won has no more pull
            assert gradient_BK.tolist() == [[-2.0, 1.0, 1.0, 0.0, 0.0]]


@pytest.mark.parametrize(("steps", "share"), [(1, 1.0), (6, 0.25), (10, 0.1)])
def test_every_iterate_is_the_peers(steps, share):
    net, x_BCHW, epsilon = convnet(), small_images(16), 8 / 255
    y_B = net(x_BCHW).argmax(dim=1)
    theirs = torchattacks.MIFGSM(net, eps=epsilon, alpha=share * epsilon, steps=steps, decay=1.0)
    eps_B1HW = torch.full((16, 1, SIDE, SIDE), epsilon)
    given_step = None if share == 1 / steps else share  # without one, the paper's 1/steps
    adv_BCHW = mi_fgsm(net, x_BCHW, y_B, eps_B1HW, AttackSettings(steps=steps, step=given_step), seeds(16))
    assert torch.allclose(adv_BCHW, theirs(x_BCHW, y_B), rtol=0, atol=1e-6)


@given(linear_problems(), st.integers(1, 9), st.booleans())
def test_on_a_linear_model_it_ends_in_the_corner(problem, steps, targeted):
    chosen = AttackSettings(steps=steps, targeted=targeted)
    adv_1CHW = mi_fgsm(linear_model(problem), *problem.attacked(), chosen, torch.tensor([0]))
    assert torch.allclose(adv_1CHW, corner(problem, targeted), rtol=0, atol=2e-6)
