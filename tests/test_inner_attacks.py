"""Attacks inside training keep to the epsilon matrix, climb, and touch nothing but images."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from latcli.engine import registry
from latcli.engine.attacks.contract import check_contract
from latcli.engine.attacks.objectives import cross_entropy_odds
from latcli.engine.datasets.base import Images, crop_and_flip
from latcli.engine.noise import item_seeds, uniform_noise
from latcli.engine.training.inner_attacks import climb, plan_for, registered_attack, registered_settings
from latcli.engine.training.regimes import REGIMES, masks, otsu_mask, regime_epsilon
from latcli.errors import UsageError


def center_masks(x_BCHW):
    count_B = torch.arange(len(x_BCHW))
    return masks(Images(x_BCHW, count_B, count_B), "center", 0.5)


def linear(classes=3):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, classes)).eval()


def images(count):
    generator = torch.Generator().manual_seed(1)
    x_BCHW = torch.rand(count, 1, 8, 8, generator=generator)
    return x_BCHW, torch.randint(0, 3, (count,), generator=generator), torch.arange(count)


def test_the_contract_holds_for_every_attack_and_regime_and_weights_stay():
    for name in ["pgd", "fgsm-rs", "n-fgsm"]:
        for regime in REGIMES:
            x_BCHW, y_B, seeds_B = images(6)
            eps_B1HW = regime_epsilon(regime, center_masks(x_BCHW), 0.3, seeds_B)
            plan, model = plan_for(name, 4, None), linear()
            adv_BCHW = climb(model, x_BCHW, y_B, eps_B1HW, plan, cross_entropy_odds, seeds_B)
            check_contract(x_BCHW, adv_BCHW, eps_B1HW * plan.allowance)
            assert torch.equal(adv_BCHW[eps_B1HW == 0], x_BCHW[eps_B1HW == 0])
            assert (regime == "natural") == torch.equal(adv_BCHW, x_BCHW)
            assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
            if regime == "standard":
                assert float((adv_BCHW - x_BCHW).abs().max()) > 0.3 * (2 if name == "n-fgsm" else 0.99)


def test_one_step_of_fgsm_rs_is_what_its_authors_wrote():
    x_BCHW, y_B, seeds_B = torch.full((2, 1, 8, 8), 0.5), torch.tensor([0, 1]), torch.arange(2)
    model = linear(classes=2)
    eps_B1HW = torch.full((2, 1, 8, 8), 0.1)
    weight = model[1].weight
    away_B = torch.stack((weight[1] - weight[0], weight[0] - weight[1])).view(2, 1, 8, 8).sign()
    start_BCHW = x_BCHW + (2 * uniform_noise(seeds_B, (1, 8, 8)) - 1) * 0.1
    expected_BCHW = (start_BCHW + 0.125 * away_B).clamp(x_BCHW - 0.1, x_BCHW + 0.1)
    found_BCHW = climb(model, x_BCHW, y_B, eps_B1HW, plan_for("fgsm-rs", 1, None), cross_entropy_odds, seeds_B)
    assert torch.allclose(found_BCHW, expected_BCHW, atol=1e-6)


def test_any_registered_attack_that_declares_it_can_train_is_found():
    names = [name for name in registry.names("attack") if getattr(registry.load("attack", name), "can_train", False)]
    assert {"fgsm", "apgd-ce"} <= set(names)
    assert not {"square", "apgd-t"} & set(names)
    for name in names:
        x_BCHW, y_B, seeds_B = images(4)
        eps_B1HW = regime_epsilon("background", center_masks(x_BCHW), 0.3, seeds_B)
        adv_BCHW = registered_attack(name)(linear(), x_BCHW, y_B, eps_B1HW, registered_settings(3, None), seeds_B)
        check_contract(x_BCHW, adv_BCHW, eps_B1HW)
        assert not torch.equal(adv_BCHW, x_BCHW)
    with pytest.raises(UsageError, match="does not declare") as caught:
        registered_attack("square")
    assert set(names) <= set(caught.value.hint.removeprefix("known: ").split(", "))


def test_each_regime_changes_what_its_name_says():
    mask_B1HW = center_masks(torch.zeros(2, 1, 8, 8))
    eps = {regime: regime_epsilon(regime, mask_B1HW, 0.3, torch.arange(2)) for regime in REGIMES}
    assert float(mask_B1HW.sum()) == 2 * 16
    assert float(eps["natural"].abs().max()) == 0
    assert torch.allclose(eps["standard"], torch.full((2, 1, 8, 8), 0.3))
    assert torch.allclose(eps["background"], 0.3 * (1 - mask_B1HW))
    assert torch.allclose(eps["foreground"], 0.3 * mask_B1HW)
    assert torch.allclose(eps["random"].sum(dim=(1, 2, 3)), eps["background"].sum(dim=(1, 2, 3)))


def test_a_digit_is_its_own_silhouette():
    x_BCHW = torch.full((4, 1, 8, 8), 0.1)
    x_BCHW[0, 0, 2:5, 3:6] = 0.9
    x_BCHW[1] = 0.9  # a dark object on a bright ground
    x_BCHW[1, 0, 4:7, 1:3] = 0.2
    x_BCHW[2, 0, 1, 1] = 0.11
    expected = torch.zeros(4, 1, 8, 8)
    expected[0, 0, 2:5, 3:6] = 1
    expected[1, 0, 4:7, 1:3] = 1
    expected[2, 0, 1, 1] = 1  # the last image has one level, and no object
    assert torch.equal(otsu_mask(x_BCHW), expected)


@given(st.integers(0, 2**31))
def test_the_threshold_is_that_of_an_exhaustive_search(seed):
    levels_HW = (uniform_noise(torch.tensor([seed]), (1, 6, 6))[0, 0] ** 2 * 255).round()

    def between(low, high):
        return float(len(low) * len(high) * (low.mean() - high.mean()) ** 2) if len(low) and len(high) else 0.0

    best = max(between(levels_HW[levels_HW <= t].double(), levels_HW[levels_HW > t].double()) for t in range(256))
    mask_HW = otsu_mask((levels_HW / 255)[None, None])[0, 0] > 0
    assert between(levels_HW[mask_HW].double(), levels_HW[~mask_HW].double()) == pytest.approx(best)


def test_a_moved_image_is_a_window_of_the_padded_one_or_of_its_mirror_image():
    x_BCHW = torch.arange(1, 65, dtype=torch.float32).view(1, 1, 8, 8).expand(40, 2, 8, 8)
    moved_BCHW = crop_and_flip(x_BCHW, item_seeds(3, torch.arange(40)))
    windows = {}
    for flipped, image in enumerate((x_BCHW[0, 0], x_BCHW[0, 0].flip(1))):
        padded = nn.functional.pad(image, (4, 4, 4, 4))
        for r, c in ((r, c) for r in range(9) for c in range(9)):
            windows[bytes(padded[r : r + 8, c : c + 8].contiguous().numpy())] = flipped
    assert {windows[bytes(image.contiguous().numpy())] for image in moved_BCHW[:, 0]} == {0, 1}
    assert torch.equal(moved_BCHW[:, 0], moved_BCHW[:, 1])
    assert torch.equal(crop_and_flip(x_BCHW[:1], item_seeds(3, torch.tensor([17])))[0], moved_BCHW[17])
