"""The smallest change inside the epsilon matrix: the closed form of linear models, and no larger than a peer's."""

import numpy as np
import torch
import torchattacks
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from linear_problems import epsilon_st, unit_st

from latcli.engine.attacks.contract import run_attack
from latcli.engine.attacks.minimal import minimal
from latcli.engine.attacks.objectives import logit_margin
from latcli.engine.attacks.pgd import pgd
from latcli.engine.attacks.settings import AttackSettings

CLASSES = 4


def sizes(x_BCHW, adv_BCHW, eps_B1HW):
    """The largest share of its epsilon that any value of each image uses."""
    change_BCHW, eps_BCHW = (adv_BCHW - x_BCHW).abs().double(), eps_B1HW.expand_as(x_BCHW).double()
    return torch.where(eps_BCHW > 0, change_BCHW / eps_BCHW, 0.0).amax(dim=(1, 2, 3))


def smallest_share(gain, x, eps, behind):
    """By bisection in float64: the least share of epsilon that makes good what a class is behind; inf for none."""
    room = np.where(gain > 0, 1 - x, x)

    def gained(share):
        return float((np.abs(gain) * np.minimum(share * eps, room)).sum())

    if gained(1.0) <= behind:
        return float("inf")
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if gained(middle) > behind else (middle, high)
    return high


@given(
    arrays(np.float32, (CLASSES, 8), elements=st.floats(-1, 1, width=16)),
    arrays(np.float32, (8,), elements=unit_st),
    arrays(np.float32, (8,), elements=epsilon_st),
)
def test_on_a_linear_model_it_is_the_closed_form(weights, x, eps):
    """Of all classes the one that takes least: not always the likeliest."""

    def model(x_BCHW):
        return x_BCHW.flatten(1) @ torch.from_numpy(weights).T

    x_1CHW, eps_11HW = torch.from_numpy(x).view(1, 1, 1, 8), torch.from_numpy(eps).view(1, 1, 1, 8)
    logits = model(x_1CHW)[0].double().numpy()
    label = int(logits.argmax())
    gains = {k: weights[k].astype(np.float64) - weights[label] for k in range(CLASSES) if k != label}
    easily, barely = (
        min(
            smallest_share(gain, x.astype(np.float64), eps, logits[label] - logits[k] + lead)
            for k, gain in gains.items()
        )
        for lead in (1e-4, -1e-5)  # float32 logits decide ties by chance
    )
    given_to = (model, x_1CHW, torch.tensor([label]), eps_11HW, AttackSettings(steps=3), torch.tensor([0]))
    adv_1CHW = run_attack(minimal, *given_to)
    share = float(sizes(x_1CHW, adv_1CHW, eps_11HW))
    leaves = bool(logit_margin(model(adv_1CHW), torch.tensor([label])) > 0)
    if easily < 0.95:
        assert leaves
        assert share <= easily * (1 + 2 / 256) + 1e-5
    if leaves:
        assert share >= barely * (1 - 1e-5)
    if barely == float("inf"):
        assert not leaves


def test_its_changes_are_as_small_as_the_peers_and_it_misses_no_more(small_digits):
    x_BCHW, y_B, eps_B1HW, seeds_B = small_digits.first(60)
    eps_B1HW = torch.full_like(eps_B1HW, 0.3)
    ours = run_attack(minimal, small_digits.net, x_BCHW, y_B, eps_B1HW, AttackSettings(steps=20), seeds_B)
    theirs = torchattacks.FAB(small_digits.net, norm="Linf", eps=0.3, steps=20, n_restarts=1, n_classes=10)(x_BCHW, y_B)
    found, peers = ((logit_margin(small_digits.net(adv), y_B) > 0) for adv in (ours, theirs))
    assert found.sum() >= peers.sum() - 1
    right = logit_margin(small_digits.net(x_BCHW), y_B) < 0
    both = found & peers & right
    ratio = sizes(x_BCHW, ours, eps_B1HW)[both] / sizes(x_BCHW, theirs, eps_B1HW)[both]
    assert ratio.median() <= 1.0
    assert ratio.mean() <= 1.05
    assert (sizes(x_BCHW, ours, eps_B1HW)[~right] == 0).all()  # what is wrong already is not touched


def test_what_pgd_cannot_do_with_less_epsilon_it_does_not_claim_and_a_target_takes_more(small_digits):
    """Inside 80 % of the size that was found PGD breaks few of the images."""
    net = small_digits.net
    x_BCHW, y_B, eps_B1HW, seeds_B = small_digits.first(60)
    eps_B1HW[:] = 1.0
    eps_B1HW[:, :, 10:18, 10:18] = 0.0
    ours = run_attack(minimal, net, x_BCHW, y_B, eps_B1HW, AttackSettings(steps=20), seeds_B)
    found = (logit_margin(net(ours), y_B) > 0) & (logit_margin(net(x_BCHW), y_B) < 0)
    size_B111 = sizes(x_BCHW, ours, eps_B1HW).float()[:, None, None, None]
    adv_BCHW = pgd(net, x_BCHW, y_B, eps_B1HW * size_B111 * 0.8, AttackSettings(steps=40), seeds_B)
    assert found.sum() > 40
    assert (logit_margin(net(adv_BCHW), y_B) > 0)[found].double().mean() < 0.1
    target_B = (y_B + 1) % 10
    chosen = AttackSettings(steps=20, targeted=True)
    adv_BCHW = run_attack(minimal, net, x_BCHW, target_B, eps_B1HW, chosen, seeds_B)
    assert (net(adv_BCHW).argmax(dim=1) == target_B).float().mean() > 0.9
    assert sizes(x_BCHW, adv_BCHW, eps_B1HW).mean() > sizes(x_BCHW, ours, eps_B1HW).mean()
