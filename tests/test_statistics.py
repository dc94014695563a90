"""Intervals, comparisons and who is best: published values, exact sums, and how often chance is taken for a finding."""

import math

import pytest
import torch

from latcli.engine.evaluation.statistics import (
    bootstrap_means,
    column_results,
    difference_p_value,
    mcnemar_p_value,
    not_beaten,
    percentile_interval,
    rejected,
    wilson_interval,
)
from latcli.results import EvaluatedModel


def test_wilson_intervals_are_the_published_ones():
    for right, n, low, high in [
        (81, 263, 0.2553, 0.3662),  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ]:
        assert wilson_interval(right, n) == pytest.approx((low, high), abs=5e-5)


def test_mcnemar_is_the_exact_binomial_tail():
    for only_a, only_b, p in [
        (0, 0, 1.0),
        (3, 3, 1.0),
        (1, 0, 1.0),
        (0, 6, 2 / 64),
        (2, 10, 2 * (1 + 12 + 66) / 4096),
        (10, 2, 158 / 4096),
    ]:
        assert mcnemar_p_value(only_a, only_b) == p
        # z = (2600 - 2400 - 1) / sqrt(5000), with the correction for continuity
        assert mcnemar_p_value(2400, 2600) == pytest.approx(math.erfc(199 / 5000**0.5 / 2**0.5), rel=2e-3)


def test_a_bootstrap_is_the_same_for_all_models_and_for_the_same_seed():
    values_NM = torch.randn(300, 2, generator=torch.Generator().manual_seed(0)).double()
    values_NM[:, 1] = values_NM[:, 0] + 2.0
    means_RM = bootstrap_means(values_NM, seed=1)
    assert means_RM.shape == (1000, 2)
    assert torch.allclose(means_RM[:, 1] - means_RM[:, 0], torch.tensor(2.0).double())
    assert torch.equal(means_RM, bootstrap_means(values_NM, seed=1))
    assert not torch.equal(means_RM, bootstrap_means(values_NM, seed=2))
    # Its deviation is the standard error of the mean, to the 2 % that 1,000 resamples leave.
    assert float(means_RM[:, 0].std()) == pytest.approx(float(values_NM[:, 0].std()) / 300**0.5, rel=0.08)
    low, high = percentile_interval(means_RM[:, 0])
    assert high - low == pytest.approx(2 * 1.96 * float(means_RM[:, 0].std()), rel=0.08)


def test_intervals_cover_the_truth_and_equal_models_seldom_differ():
    generator = torch.Generator().manual_seed(0)
    covered, found = 0, 0
    for trial in range(200):
        loss_NM = -torch.rand(100, 2, generator=generator).double().log()  # exponential, mean 1: skewed like losses
        means_RM = bootstrap_means(loss_NM, seed=trial, resamples=400)
        low, high = percentile_interval(means_RM[:, 0])
        covered += low < 1.0 < high
        difference = float((loss_NM[:, 0] - loss_NM[:, 1]).mean())
        found += difference_p_value(difference, means_RM[:, 0] - means_RM[:, 1], 100) < 0.05
    assert covered >= 180
    assert found <= 20


def test_few_images_prove_nothing_and_equal_losses_are_equal():
    always_lower_RM = bootstrap_means(torch.tensor([[1.0], [1.1], [0.9]]), seed=0)
    assert difference_p_value(1.0, always_lower_RM[:, 0], 3) == 0.25  # the signs of three differences
    assert difference_p_value(0.0, torch.zeros(10), 1000) == 1.0
    assert difference_p_value(1.0, torch.ones(10), 1) == 1.0
    assert difference_p_value(0.3, 0.1 * torch.randn(9000, generator=torch.Generator().manual_seed(0)), 900) < 0.01


def test_holm_steps_down_from_the_smallest():
    assert rejected([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]  # .005 < .05/4, .01 < .05/3, .03 > .05/2
    assert rejected([0.03, 0.02]) == [True, True]
    assert rejected([0.2, 0.0001]) == [False, True]
    assert rejected([]) == []


def test_the_best_is_shared_with_those_that_chance_may_have_put_behind():
    p_values = {1: 0.001, 2: 0.4}
    assert not_beaten([0.9, 0.5, 0.89], lambda first, other: p_values[other]) == [True, False, True]
    assert not_beaten([0.5], lambda first, other: 0.0) == [False]
    assert not_beaten([0.5, 0.5], lambda first, other: 1.0) == [True, True]


def column(right_NM, loss_NM):
    models = [EvaluatedModel(name, name, name, name, "", "") for name in "abc"[: right_NM.shape[1]]]
    return column_results(right_NM, loss_NM, 0, models, {"input": "standard", "seed": 0}, [0.0] * len(models))


def test_a_column_gives_means_intervals_and_pairs():
    """Models that are right on the first so many images, with losses to match; each is a part of the next."""
    right_NM = torch.stack([torch.arange(400) < share * 400 for share in (0.44, 0.435, 0.30)], dim=1)
    noise_NM = torch.rand(400, 1, generator=torch.Generator().manual_seed(0)).double()
    cells, pairs = column(right_NM, torch.where(right_NM, 0.1, 2.0) + noise_NM)
    assert [cell.accuracy for cell in cells] == pytest.approx([0.44, 0.435, 0.30])
    assert (cells[0].accuracy_low, cells[0].accuracy_high) == wilson_interval(176, 400)
    assert cells[0].loss_low < cells[0].loss < cells[0].loss_high
    assert [(one.only_a, one.only_b) for one in pairs] == [(2, 0), (56, 0), (54, 0)]
    # 44.0 % is no better than 43.5 % on two images' difference; both are better than 30 %.
    assert [cell.best_accuracy for cell in cells] == [True, True, False]
    assert [cell.best_loss for cell in cells] == [True, True, False]


def test_without_losses_and_of_one_image_there_is_no_interval():
    right_NM = torch.tensor([[True, False]])
    cells, (pair,) = column(right_NM, torch.full((1, 2), math.nan))
    for cell in cells:
        assert (cell.loss, cell.loss_low, cell.loss_high, cell.best_loss) == (None, None, None, False)
    assert (pair.loss_difference, pair.loss_p_value) == (None, None)
    cells, _ = column(right_NM, torch.tensor([[0.1, 2.0]]))
    assert [(cell.loss_low, cell.loss_high) for cell in cells] == [(None, None)] * 2
    assert all(cell.best_accuracy and cell.best_loss for cell in cells)
