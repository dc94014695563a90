"""PGD finds what there is to find inside the epsilon matrix, keeps the worst case, and rests when it is told to."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from linear_problems import corner, linear_model, linear_problems
from small_images import CLASSES, SIDE, background, convnet, seeds, small_images
from torch import nn
from torch.nn import functional

from latcli.engine.attacks.fgsm import fgsm
from latcli.engine.attacks.objectives import cross_entropy_odds, logit_margin, objective_for, reached
from latcli.engine.attacks.pgd import input_gradient, pgd, restart_seeds
from latcli.engine.attacks.settings import SCHEDULES, AttackSettings, Model, Schedule, narrowed
from latcli.engine.noise import uniform_noise
from latcli.errors import UsageError

# The optimum, where it is known


@settings(max_examples=60)
@given(
    linear_problems(),
    st.sampled_from([AttackSettings(steps=s, schedule=k) for s in (1, 10, 25) for k in SCHEDULES]),
    st.sampled_from(["ce", "margin"]),
    st.booleans(),
    st.booleans(),
)
def test_on_a_linear_model_pgd_reaches_the_corner_of_the_box(
    problem: tuple[np.ndarray, torch.Tensor, torch.Tensor, int],
    chosen: AttackSettings,
    objective: str,
    random_start: bool,
    targeted: bool,
) -> None:
    weights_CHW, x_1CHW, eps_11HW, label = problem
    # One step goes from the middle to the corner; from a random start it takes two.
    chosen = replace(chosen, objective=objective, random_start=random_start and chosen.steps > 1, targeted=targeted)
    adv_1CHW = pgd(linear_model(weights_CHW), x_1CHW, torch.tensor([label]), eps_11HW, chosen, torch.tensor([3]))
    expected_1CHW = corner(weights_CHW, x_1CHW, eps_11HW, label, targeted)
    assert torch.allclose(adv_1CHW, expected_1CHW, rtol=0, atol=3e-7)


def _best_in_ball_and_box(gradient_n: np.ndarray, low_n: np.ndarray, high_n: np.ndarray, radius: float) -> np.ndarray:
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
def test_on_a_linear_model_l2_pgd_reaches_the_best_of_ball_and_box(
    problem: tuple[np.ndarray, torch.Tensor, torch.Tensor, int], radius: float, random_start: bool, schedule: Schedule
) -> None:
    weights_CHW, x_1CHW, eps_11HW, label = problem
    chosen = AttackSettings(steps=50, step=0.5, schedule=schedule, norm="l2", radius=radius, random_start=random_start)
    adv_1CHW = pgd(linear_model(weights_CHW), x_1CHW, torch.tensor([label]), eps_11HW, chosen, torch.tensor([3]))
    gradient_n = weights_CHW.astype(np.float64).ravel() * (1 if label == 0 else -1)
    x_n = x_1CHW.double().numpy().ravel()
    eps_n = eps_11HW.expand_as(x_1CHW).double().numpy().ravel()
    best_n = _best_in_ball_and_box(gradient_n, np.maximum(-eps_n, -x_n), np.minimum(eps_n, 1 - x_n), radius)
    found_n = adv_1CHW.double().numpy().ravel() - x_n
    assert gradient_n @ found_n >= 0.99 * (gradient_n @ best_n) - 1e-6
    assert np.linalg.norm(found_n) <= radius * (1 + 1e-5)


# The iterates, step by step


def _plain_pgd(net: nn.Module, x: torch.Tensor, y: torch.Tensor, eps: float, step: float, steps: int) -> torch.Tensor:
    """PGD as in the papers: cross entropy, a constant epsilon, a constant step, no random start."""
    adv = x.clone()
    for _ in range(steps):
        adv.requires_grad_()
        gradient = torch.autograd.grad(functional.cross_entropy(net(adv), y, reduction="sum"), adv)[0]
        adv = adv.detach() + step * gradient.sign()
        adv = torch.min(torch.max(adv, x - eps), x + eps).clamp(0, 1)
    return adv


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_every_iterate_is_that_of_a_plain_pgd(steps: int) -> None:
    net, x_BCHW, eps = convnet(), small_images(6), 0.05
    y_B = torch.arange(6)
    chosen = AttackSettings(steps=steps, step=0.3, schedule="constant", random_start=False)
    adv_BCHW = pgd(net, x_BCHW, y_B, torch.full((6, 1, SIDE, SIDE), eps), chosen, seeds(6))
    expected_BCHW = _plain_pgd(net, x_BCHW, y_B, eps, 0.3 * eps, steps)
    assert torch.allclose(adv_BCHW, expected_BCHW, rtol=0, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_single_step_moves_every_free_pixel_by_its_epsilon(schedule: Schedule) -> None:
    net, x_BCHW, eps_B1HW = convnet(), 0.25 + small_images(4) / 2, background(4)
    y_B = torch.arange(4)
    chosen = AttackSettings(steps=1, schedule=schedule, random_start=False)
    adv_BCHW = pgd(net, x_BCHW, y_B, eps_B1HW, chosen, seeds(4))
    assert torch.allclose((adv_BCHW - x_BCHW).abs(), eps_B1HW.expand_as(x_BCHW), rtol=0, atol=1e-6)
    before_B, after_B = (functional.cross_entropy(net(t), y_B, reduction="none") for t in (x_BCHW, adv_BCHW))
    assert (after_B > before_B).all()
    assert torch.equal(fgsm(net, x_BCHW, y_B, eps_B1HW, AttackSettings(steps=7, restarts=3), seeds(4)), adv_BCHW)


def test_the_random_start_is_the_images_own_noise() -> None:
    x_BCHW, eps_B1HW = small_images(3), background(3)
    seen: list[torch.Tensor] = []

    def watched(x_BCHW: torch.Tensor) -> torch.Tensor:
        seen.append(x_BCHW.detach().clone())
        return x_BCHW.mean(dim=(2, 3))

    pgd(watched, x_BCHW, torch.zeros(3, dtype=torch.int64), eps_B1HW, AttackSettings(steps=1), seeds(3))
    noise_BCHW = 2 * uniform_noise(restart_seeds(seeds(3), 0), (3, SIDE, SIDE)) - 1
    assert torch.allclose(seen[0], (x_BCHW + noise_BCHW * eps_B1HW).clamp(0, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("objective", ["ce", "margin"])
def test_confident_models_are_attacked_like_any_other(objective: str) -> None:
    """Peers freeze where the gradient of the cross entropy underflows; such a model only looks robust."""
    net, x_BCHW, eps_B1HW = convnet(), 0.25 + small_images(8) / 2, background(8, 0.2)
    y_B = net(x_BCHW).argmax(dim=1)
    with torch.no_grad():
        net[-1].weight.mul_(1e5)
        net[-1].bias.mul_(1e5)
    x_BCHW.requires_grad_()
    (faded_BCHW,) = torch.autograd.grad(functional.cross_entropy(net(x_BCHW), y_B, reduction="sum"), x_BCHW)
    assert not faded_BCHW.any()
    x_BCHW = x_BCHW.detach()
    chosen = AttackSettings(steps=20, objective=objective, random_start=False)
    adv_BCHW = pgd(net, x_BCHW, y_B, eps_B1HW, chosen, seeds(8))
    free = (eps_B1HW > 0).expand_as(x_BCHW)
    assert torch.equal(adv_BCHW != x_BCHW, free)
    assert (net(adv_BCHW).argmax(dim=1) != y_B).all()


@pytest.mark.parametrize("objective", ["ce", "margin"])
@pytest.mark.parametrize("target", [0, 5, 11])
def test_a_target_is_reached(target: int, objective: str) -> None:
    net, x_BCHW = convnet(), small_images(4)
    y_B = torch.full((4,), target)
    chosen = AttackSettings(targeted=True, objective=objective)
    adv_BCHW = pgd(net, x_BCHW, y_B, background(4, 0.5), chosen, seeds(4))
    assert (net(x_BCHW).argmax(dim=1) != target).any()
    assert (net(adv_BCHW).argmax(dim=1) == target).all()


def test_the_label_is_left_not_the_prediction() -> None:
    net, x_BCHW, eps_B1HW = convnet(), small_images(6), background(6, 0.1)
    prediction_B = net(x_BCHW).argmax(dim=1)
    for shift in (1, 5):
        y_B = (prediction_B + shift) % CLASSES  # labels that the model never gave
        chosen = AttackSettings(objective="margin")
        adv_BCHW = pgd(net, x_BCHW, y_B, eps_B1HW, chosen, seeds(6))
        assert (logit_margin(net(adv_BCHW), y_B) > logit_margin(net(x_BCHW), y_B) + 0.1).all()


# Restarts

# One grey pixel; class 0 is the label. A start in the upper half climbs to 1, one in the lower half to 0.


def _two_valleys(upper: tuple[float, float], lower: tuple[float, float], middle: float = -20.0) -> Model:
    """Logits of two other classes, at the end of the upper and of the lower half, and in the middle."""

    def classify(x_B111: torch.Tensor) -> torch.Tensor:
        place_B1 = 2 * (x_B111.flatten(1) - 0.5)
        up_B2 = middle + (torch.tensor(upper) - middle) * place_B1
        down_B2 = middle - (torch.tensor(lower) - middle) * place_B1
        return torch.cat([torch.zeros(len(place_B1), 1), torch.where(place_B1 > 0, up_B2, down_B2)], dim=1)

    return classify


def _starts_up(seeds_B: torch.Tensor, restarts: int) -> torch.Tensor:
    """Bool (restarts, B): whether that restart of that image begins in the upper half."""
    starts = [uniform_noise(restart_seeds(seeds_B, restart), (1, 1, 1)).flatten() for restart in range(restarts)]
    return torch.stack(starts) > 0.5


def _climb(model: Model, restarts: int, batch: int = 64, **more: object) -> torch.Tensor:
    half = torch.full((batch, 1, 1, 1), 0.5)
    chosen = AttackSettings(restarts=restarts, **({"steps": 10} | more))  # type: ignore[arg-type]
    return pgd(model, half, torch.zeros(batch, dtype=torch.int64), half, chosen, seeds(batch)).flatten()


@dataclass(frozen=True)
class Valleys:
    """Where the two halves lead, the settings, and whether one restart there is enough to end in the upper one."""

    upper: tuple[float, float]
    lower: tuple[float, float]
    settings: dict[str, object]
    one_is_enough: bool = True
    middle: float = -20.0


@pytest.mark.parametrize("restarts", [1, 2, 5])
@pytest.mark.parametrize(
    "valleys",
    [
        # above, the label is beaten by a hair; below, it is not, though the cross entropy is higher there
        Valleys((0.1, -20.0), (-0.1, -0.1), {"step": 1.0, "schedule": "constant"}),
        Valleys((0.1, -20.0), (-0.1, -0.1), {"steps": 1, "step": 1.0, "schedule": "constant"}),
        # above, the target stands first by a hair; below, it does not, though the cross entropy is lower there
        Valleys((-0.1, -0.1), (0.1, -20.0), {"targeted": True}, middle=20.0),
        # both win: the higher one is kept
        Valleys((5.0, -20.0), (2.0, 2.0), {"objective": "ce"}),
        Valleys((5.0, -20.0), (2.0, 2.0), {"objective": "margin"}),
        # the lower valley is the worse case: an image that was there once stays, wherever later restarts end
        Valleys((-1.0, -20.0), (5.0, -20.0), {}, one_is_enough=False),
        # above, two classes pass the label and the image rests; below, one does, and by far
        Valleys((1.0, 1.0), (9.0, -20.0), {"stop_rank": 2, "steps": 40}),
        # no restart meets the stop rank: a beaten label is kept
        Valleys((0.1, -20.0), (-0.1, -0.1), {"stop_rank": 2}),
        Valleys((0.1, -20.0), (-0.1, -0.1), {"stop_rank": 1, "stop_margin": 0.25}),
    ],
)
def test_each_image_keeps_its_worst_restart(valleys: Valleys, restarts: int) -> None:
    ends_B = _climb(_two_valleys(valleys.upper, valleys.lower, valleys.middle), restarts, **valleys.settings)
    starts = _starts_up(seeds(64), restarts)
    expected_B = starts.any(dim=0) if valleys.one_is_enough else starts.all(dim=0)
    assert restarts > 2 or 0 < expected_B.sum() < 64
    assert torch.equal(ends_B > 0.5, expected_B)


def test_restarts_share_the_room_of_solved_images_and_change_nothing() -> None:
    """Solved images leave; the others' restarts then run side by side, in a batch no larger."""
    inner = _two_valleys(upper=(1.0, 1.0), lower=(0.5, -20.0))
    batches: list[int] = []

    def classify(x_B111: torch.Tensor) -> torch.Tensor:
        if x_B111.requires_grad:
            batches.append(len(x_B111))
        return inner(x_B111)

    ends_B = _climb(classify, restarts=5, stop_rank=2, steps=40)
    assert max(batches) == 64
    half_1 = torch.full((1, 1, 1, 1), 0.5)
    chosen = AttackSettings(restarts=5, stop_rank=2, steps=40)
    one_by_one = [
        pgd(inner, half_1, torch.zeros(1, dtype=torch.int64), half_1, chosen, seed_1) for seed_1 in seeds(64).split(1)
    ]
    assert torch.equal(ends_B, torch.cat(one_by_one).flatten())
    # Each restart leaves half of the images: two go alone, the other three as one.
    assert len(batches) <= 3 * 40


def test_without_chance_restarts_are_one() -> None:
    calls = 0

    def counting(x_BCHW: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return x_BCHW.mean(dim=(2, 3))

    chosen = AttackSettings(steps=3, restarts=5, random_start=False)
    pgd(counting, small_images(2), torch.zeros(2, dtype=torch.int64), background(2), chosen, seeds(2))
    assert calls == 3


@pytest.mark.parametrize("restarts", [1, 2, 5])
def test_an_image_at_rest_takes_no_part_in_further_restarts(restarts: int) -> None:
    """Both valleys beat the label, so that each image rests where its first start led it."""
    model = _two_valleys(upper=(5.0, -20.0), lower=(2.0, -20.0))
    ends_B = _climb(model, restarts, stop_rank=1, steps=40)
    assert torch.equal(ends_B > 0.5, _starts_up(seeds(64), 1)[0])
    assert ((ends_B > 0) & (ends_B < 1)).float().mean() > 0.3  # the others rested at the very end


# Rest


def _stop(rank: int, **more: object) -> AttackSettings:
    settled = {"steps": 12, "step": 0.1, "schedule": "constant", "random_start": False, "stop_rank": rank} | more
    return AttackSettings(**settled)  # type: ignore[arg-type]


@pytest.mark.parametrize(("rank", "epsilon"), [(1, 0.08), (3, 0.2), (10, 0.4)])
@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_an_image_rests_at_the_first_iterate_that_meets_the_stop_rank(rank: int, epsilon: float, margin: float) -> None:
    net, x_BCHW, eps_B1HW = convnet(), small_images(16), background(16, epsilon)
    y_B = net(x_BCHW).argmax(dim=1)
    chosen = _stop(rank, stop_margin=margin)
    rested_BCHW = pgd(net, x_BCHW, y_B, eps_B1HW, chosen, seeds(16))
    iterates = [x_BCHW]
    for steps in range(1, 13):
        iterates.append(pgd(net, x_BCHW, y_B, eps_B1HW, replace(chosen, steps=steps, stop_rank=0), seeds(16)))
    rests = []
    for image in range(16):
        ranks = [_classes_above(net(iterate_BCHW)[image], y_B[image], margin) for iterate_BCHW in iterates]
        met = [index for index, above in enumerate(ranks) if above >= rank]
        rests.append(met[0] if met else 12)
        assert torch.allclose(rested_BCHW[image], iterates[rests[-1]][image], rtol=0, atol=1e-6)
    # Each in its own time, some late or never; who rests early has changed less.
    assert len(set(rests)) > 2
    early_B = torch.tensor(rests) < 12
    changes = [(t_BCHW - x_BCHW).flatten(1).norm(dim=1)[early_B] for t_BCHW in (rested_BCHW, iterates[12])]
    assert changes[0].mean() < 0.95 * changes[1].mean()


def _classes_above(logits_K: torch.Tensor, label: torch.Tensor, margin: float) -> int:
    return int((logits_K > logits_K[label] + margin).sum())


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_an_image_that_never_meets_the_stop_rank_goes_the_whole_way(schedule: Schedule) -> None:
    net, x_BCHW, eps_B1HW = convnet(), small_images(6), background(6, 0.02)
    y_B = net(x_BCHW).argmax(dim=1)
    chosen = AttackSettings(steps=7, step=0.2, schedule=schedule, stop_rank=11)
    rested_BCHW, full_BCHW = (
        pgd(net, x_BCHW, y_B, eps_B1HW, replace(chosen, stop_rank=rank), seeds(6)) for rank in (11, 0)
    )
    assert torch.equal(rested_BCHW, full_BCHW)


def test_an_image_whose_label_is_beaten_already_is_not_touched() -> None:
    net, x_BCHW = convnet(), small_images(4)
    y_B = net(x_BCHW).argmax(dim=1)
    y_B[:2] = net(x_BCHW).argmin(dim=1)[:2]
    adv_BCHW = pgd(net, x_BCHW, y_B, background(4), _stop(1), seeds(4))
    assert torch.equal(adv_BCHW[:2], x_BCHW[:2])
    assert (adv_BCHW[2:] != x_BCHW[2:]).flatten(1).any(dim=1).all()


def test_a_target_once_reached_is_left_alone() -> None:
    net, x_BCHW = convnet(), small_images(6)
    y_B = torch.full((6,), 4)
    rested_BCHW, full_BCHW = (
        pgd(net, x_BCHW, y_B, background(6, 0.3), _stop(rank, targeted=True), seeds(6)) for rank in (1, 0)
    )
    assert (net(rested_BCHW).argmax(dim=1) == 4).all()
    changes = [(t_BCHW - x_BCHW).flatten(1).norm(dim=1) for t_BCHW in (rested_BCHW, full_BCHW)]
    assert (changes[0] < 0.8 * changes[1]).all()


class _OwnWeights:
    """A model that sees each image of its batch with other eyes, as a canvas of photos does."""

    def __init__(self, weights_BCHW: torch.Tensor) -> None:
        self.weights_BCHW = weights_BCHW

    def __call__(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        lead_B = (x_BCHW * self.weights_BCHW).flatten(1).sum(dim=1)
        return torch.stack([-lead_B, lead_B], dim=1)

    def narrowed(self, kept_b: torch.Tensor) -> Model:
        return _OwnWeights(self.weights_BCHW[kept_b])


@pytest.mark.parametrize("restarts", [1, 3])
def test_a_model_with_an_eye_for_each_image_is_narrowed_with_the_batch(restarts: int) -> None:
    x_BCHW = small_images(8)
    weights_BCHW = torch.randn(x_BCHW.shape, generator=torch.Generator().manual_seed(5))
    # Leads of 0 (rests at once), small ones (rest early) and one too large to be undone.
    lead_B = torch.tensor([0.5, -0.1, -2.0, 1.0, -4.0, -900.0, -1.0, -5.0])
    now_B = (x_BCHW * weights_BCHW).flatten(1).sum(dim=1)
    weights_BCHW += ((lead_B - now_B) / x_BCHW.flatten(1).square().sum(dim=1))[:, None, None, None] * x_BCHW
    model, eps_B1HW = _OwnWeights(weights_BCHW), background(8, 0.1)
    y_B = torch.zeros(8, dtype=torch.int64)
    chosen = _stop(1, restarts=restarts, random_start=restarts > 1)
    together_BCHW = pgd(model, x_BCHW, y_B, eps_B1HW, chosen, seeds(8))
    for i in range(8):
        one = slice(i, i + 1)
        alone = (_OwnWeights(weights_BCHW[one]), x_BCHW[one], y_B[one], eps_B1HW[one], chosen, seeds(8)[one])
        assert torch.equal(pgd(*alone)[0], together_BCHW[i])
    assert (model(together_BCHW)[:, 1] > model(together_BCHW)[:, 0]).tolist() == [True] * 5 + [False] + [True] * 2
    assert narrowed(model, torch.tensor([2]))(x_BCHW[2:3])[0, 1].item() == pytest.approx(-2.0, abs=1e-4)
    plain = convnet()
    assert narrowed(plain, torch.tensor([2])) is plain


# Chance


def _attack(seeds_B: torch.Tensor, restarts: int = 2) -> torch.Tensor:
    net, x_BCHW = convnet(), small_images(4)
    chosen = AttackSettings(steps=3, step=0.05, restarts=restarts)
    return pgd(net, x_BCHW, torch.arange(4), background(4), chosen, seeds_B)


def test_chance_comes_from_each_images_seed_alone() -> None:
    first_BCHW, net, x_BCHW = _attack(seeds(4)), convnet(), small_images(2)
    torch.rand(17)
    assert torch.equal(_attack(seeds(4)), first_BCHW)
    state = torch.get_rng_state()
    pgd(net, x_BCHW, torch.arange(2), background(2), AttackSettings(steps=2, restarts=2), seeds(2))
    assert torch.equal(torch.get_rng_state(), state)  # no number is drawn from the program's own generator
    seeds_B = seeds(4)
    seeds_B[2] += 1
    differ = (_attack(seeds_B) != first_BCHW).flatten(1).any(dim=1)
    assert differ.tolist() == [False, False, True, False]
    all_seeds = torch.stack([restart_seeds(torch.tensor([0, 1, 2, 2**63 - 1]), restart) for restart in range(20)])
    assert len(all_seeds.unique()) == all_seeds.numel()


# Step sizes


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (AttackSettings(steps=40, schedule="constant"), [0.0625] * 40),
        (AttackSettings(steps=40, schedule="linear"), [0.25 * (1 - i / 40) for i in range(40)]),
        (AttackSettings(steps=40), [0.125 * (1 + math.cos(math.pi * i / 40)) for i in range(40)]),
        (AttackSettings(steps=2, schedule="constant"), [1.0, 1.0]),
        (AttackSettings(steps=4, schedule="linear"), [1.0, 0.75, 0.5, 0.25]),
        (AttackSettings(steps=2), [1.0, 0.5]),
        (AttackSettings(steps=3, step=0.5, schedule="constant"), [0.5, 0.5, 0.5]),
        (AttackSettings(steps=4, step=2.0, schedule="linear"), [2.0, 1.5, 1.0, 0.5]),
        (AttackSettings(steps=2, step=0.3), [0.3, 0.15]),
    ],
)
def test_schedules_have_known_steps(chosen: AttackSettings, expected: list[float]) -> None:
    assert [chosen.step_at(index) for index in range(chosen.steps)] == pytest.approx(expected)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [2, 3, 10, 100])
def test_the_default_steps_cross_the_whole_box(steps: int, schedule: Schedule) -> None:
    chosen = AttackSettings(steps=steps, schedule=schedule)
    shares = [chosen.step_at(index) for index in range(steps)]
    assert sum(shares) >= 1.5 if steps == 2 else sum(shares) >= 2
    assert all(0 < share <= 1 for share in shares)
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "at least one step"),
        ({"steps": -3}, "at least one step"),
        ({"restarts": 0}, "one restart"),
        ({"step": 0.0}, "step size is 0, not a number above 0"),
        ({"step": -0.1}, "step size is -0.1"),
        ({"step": math.nan}, "step size is nan"),
        ({"step": math.inf}, "step size is inf"),
        ({"norm": "l2"}, "--norm l2 and --radius belong together"),
        ({"radius": 3.0}, "--norm l2 and --radius belong together"),
        ({"norm": "l2", "radius": 0.0}, "radius is 0, not a number above 0"),
        ({"norm": "l2", "radius": -1.0}, "radius is -1"),
        ({"norm": "l2", "radius": math.nan}, "radius is nan"),
        ({"norm": "l2", "radius": math.inf}, "radius is inf"),
        ({"norm": "L2"}, "no norm called 'L2'"),
        ({"objective": "cw"}, "no objective called 'cw'"),
        ({"objective": "topk:0"}, "needs a whole number above 0"),
        ({"objective": "topk:ten"}, "needs a whole number above 0"),
        ({"objective": "top10", "targeted": True}, "cannot be used with a target"),
        ({"schedule": "cosin"}, "no schedule called 'cosin'"),
        ({"stop_rank": -1}, "stop rank"),
        ({"stop_rank": 1, "stop_margin": -0.5}, "stop rank"),
        ({"stop_rank": 1, "stop_margin": math.nan}, "stop rank"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        AttackSettings(**wrong)  # type: ignore[arg-type]
    assert raised.value.hint


# What is climbed

logits_st = arrays(np.float32, (4, 6), elements=st.one_of(st.integers(-3, 3).map(float), st.floats(-30, 30, width=32)))
labels_st = st.lists(st.integers(0, 5), min_size=4, max_size=4)


@given(logits_st, labels_st)
def test_cross_entropy_is_the_softplus_of_its_odds(logits: np.ndarray, labels: list[int]) -> None:
    logits_BK, y_B = torch.from_numpy(logits), torch.tensor(labels)
    odds_B = cross_entropy_odds(logits_BK, y_B)
    expected_B = functional.cross_entropy(logits_BK.double(), y_B, reduction="none")
    assert torch.allclose(functional.softplus(odds_B.double()), expected_B, rtol=1e-5, atol=1e-5)


def test_the_odds_never_fade_where_the_cross_entropy_does() -> None:
    logits_BK = torch.tensor([[500.0, 3.0, 1.0]], requires_grad=True)
    (faded,) = torch.autograd.grad(functional.cross_entropy(logits_BK, torch.tensor([0])), logits_BK)
    (kept,) = torch.autograd.grad(cross_entropy_odds(logits_BK, torch.tensor([0])).sum(), logits_BK)
    assert not faded.any()
    share = 1 / (1 + math.exp(-2))
    assert torch.allclose(kept, torch.tensor([[-1.0, share, 1 - share]]))


@given(logits_st, labels_st, st.integers(1, 8), st.sampled_from([0.0, 0.25, 1.0]))
def test_a_rank_is_reached_when_so_many_classes_stand_above_the_label(
    logits: np.ndarray, labels: list[int], rank: int, margin: float
) -> None:
    logits_BK, y_B = torch.from_numpy(logits), torch.tensor(labels)
    chosen = AttackSettings(stop_rank=rank, stop_margin=margin)
    met_B = reached(logits_BK, y_B, chosen, rank)
    first_B = reached(logits_BK, y_B, replace(chosen, targeted=True), rank)
    for row, label, met, first in zip(logits, labels, met_B.tolist(), first_B.tolist(), strict=True):
        others = np.delete(row, label)
        assert met == ((others > row[label] + np.float32(margin)).sum() >= min(rank, 5))
        assert first == bool((row[label] > others + np.float32(margin)).all())
    assert torch.equal(logit_margin(logits_BK, y_B) > 0, reached(logits_BK, y_B, AttackSettings()))


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        # the other logits lead the label's (1) by 1.5, -1, -3 and 7, the last of which counts as SAFELY_WON = 2
        ("topk:1", 2.0),
        ("topk:2", 2.0 + 1.5),
        ("topk:3", 2.0 + 1.5 - 1.0),
        ("top10", 2.0 + 1.5 - 1.0 - 3.0),
        ("margin", 7.0),
    ],
)
def test_the_margins_of_the_largest_others_are_summed_up_to_what_is_safely_won(objective: str, expected: float) -> None:
    logits_BK = torch.tensor([[1.0, 2.5, 0.0, -2.0, 8.0]], requires_grad=True)
    climbed_B = objective_for(AttackSettings(objective=objective))(logits_BK, torch.tensor([0]))
    assert climbed_B.item() == expected
    (gradient_BK,) = torch.autograd.grad(climbed_B.sum(), logits_BK)
    if objective == "topk:3":  # what is safely won has no more pull
        assert gradient_BK.tolist() == [[-2.0, 1.0, 1.0, 0.0, 0.0]]


def test_the_rank_objective_gets_more_labels_out_of_the_first_guesses() -> None:
    net, x_BCHW, eps_B1HW = convnet(), small_images(40), background(40, 0.08)
    y_B = net(x_BCHW).argmax(dim=1)
    out = {}
    for objective in ("ce", "topk:4"):
        adv_BCHW = pgd(net, x_BCHW, y_B, eps_B1HW, AttackSettings(objective=objective), seeds(40))
        out[objective] = int(reached(net(adv_BCHW), y_B, AttackSettings(), rank=4).sum())
    assert 0 < out["ce"] < out["topk:4"] <= 40


@pytest.mark.parametrize("objective", [cross_entropy_odds, logit_margin])
def test_the_gradient_is_that_of_each_image_alone(
    objective: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    net, x_BCHW, y_B = convnet(), small_images(3), torch.arange(3)
    gradient_BCHW, logits_BK = input_gradient(net, x_BCHW, y_B, objective)
    assert torch.allclose(logits_BK, net(x_BCHW), atol=1e-6)
    assert not logits_BK.requires_grad
    assert not x_BCHW.requires_grad
    direction_BCHW = torch.randn(x_BCHW.shape, generator=torch.Generator().manual_seed(0)).double()
    double = convnet().double()
    for sign in (1, -1):
        ahead_B, behind_B = (
            objective(double(x_BCHW.double() + h * sign * direction_BCHW).double(), y_B) for h in (1e-2, -1e-2)
        )
        slope_B = (gradient_BCHW.double() * sign * direction_BCHW).flatten(1).sum(dim=1)
        assert torch.allclose((ahead_B - behind_B).double() / 2e-2, slope_B, rtol=2e-2, atol=2e-3)
