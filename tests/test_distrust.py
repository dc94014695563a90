"""Each reason for doubt at known answers, on both sides of its threshold."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from latcli.engine.evaluation import distrust
from latcli.errors import LatcliError


def test_gradients_vanish_only_where_a_change_is_allowed() -> None:
    # Class 1 looks at the left pixel, class 0 at none: nothing can be gained at the right one.
    def left(x: torch.Tensor) -> torch.Tensor:
        return torch.stack((torch.zeros(len(x)) * x.sum(), x[:, 0, 0, 0]), dim=1)

    x = torch.full((3, 1, 1, 2), 0.5)
    eps = torch.tensor([[0.1, 0.1], [0.0, 0.1], [0.0, 0.0]]).view(3, 1, 1, 2)
    found = distrust.vanished(left, x, torch.zeros(3, dtype=torch.int64), eps)

    # The third may not change at all: that is another doubt.
    assert found.tolist() == [False, True, False]


def test_a_confident_model_is_not_taken_for_a_masked_one() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    net[1].weight.data = torch.tensor([[400.0] * 4, [-400.0] * 4])
    x, y = torch.ones(1, 1, 2, 2), torch.zeros(1, dtype=torch.int64)

    with torch.no_grad():
        assert float(net(x).softmax(dim=1)[0, 1]) == 0.0  # cross entropy itself has no gradient left here
    assert not distrust.vanished(net, x, y, torch.full((1, 1, 2, 2), 0.1)).any()


@pytest.mark.parametrize(("count", "flagged"), [(0, False), (9, False), (10, True), (1000, True)])
def test_vanishing_gradients_are_told_from_one_percent_on(count: int, flagged: bool) -> None:
    doubt = distrust.vanishing_gradients((torch.arange(1000) < count).to(torch.int8))

    assert (doubt is not None) == flagged
    if doubt is not None:
        assert doubt.value == pytest.approx(count / 1000)
        assert f"for {count / 10:.1f} % of the images" in doubt.text


def test_the_share_that_may_change_is_counted_in_pixels() -> None:
    eps = torch.tensor([[0.1, 0.0, 0.0, 0.3], [0.0, 0.0, 0.0, 0.0]]).view(2, 1, 2, 2)

    assert distrust.allowed_share(eps).tolist() == [0.5, 0.0]


def test_nothing_to_change_is_less_than_one_percent_of_the_pixels() -> None:
    assert distrust.nothing_to_change(torch.full((50,), 0.01)) is None
    assert distrust.nothing_to_change(torch.ones(50)) is None
    doubt = distrust.nothing_to_change(torch.tensor([0.0099] * 25 + [0.5] * 25))
    assert doubt is not None
    assert doubt.value == 0.5


@pytest.mark.parametrize(("difference", "flagged"), [(0.0, False), (1e-5, False), (1e-2, True)])
def test_a_model_is_random_where_its_answers_differ(difference: float, flagged: bool) -> None:
    first = torch.tensor([[2.0, -4.0], [1.0, 0.0]])

    assert (distrust.random_model(first, first + difference) is not None) == flagged


@pytest.mark.parametrize(
    ("rows", "flagged"),
    [
        ([[0.25, 0.75], [1.0, 0.0]], True),
        ([[0.25, 0.75], [1.0, 0.5]], False),
        ([[1.25, -0.25], [1.0, 0.0]], False),
        ([[1.0], [1.0]], False),
    ],
)
def test_probabilities_are_rows_that_sum_to_one(rows: list[list[float]], flagged: bool) -> None:
    assert (distrust.probabilities(torch.tensor(rows)) is not None) == flagged


def test_logits_and_their_softmax_are_told_apart() -> None:
    logits = torch.randn(64, 10, generator=torch.Generator().manual_seed(0)) * 5

    assert distrust.probabilities(logits) is None
    assert distrust.probabilities(logits.softmax(dim=1)) is not None
    assert distrust.probabilities(logits.log_softmax(dim=1)) is None  # as good as logits


@pytest.mark.parametrize(
    ("curve", "rise"),
    [
        ({0.0: 0.99, 0.1: 0.8, 0.3: 0.2}, None),
        ({0.0: 0.5, 0.1: 0.502}, None),
        ({0.0: 0.5, 0.1: 0.503}, 0.003),
        ({0.3: 0.6, 0.1: 0.2, 0.0: 0.9}, 0.4),
        ({0.1: 0.2, 0.2: 0.1, 0.4: 0.25}, 0.15),
        ({0.1: 0.5}, None),
    ],
)
def test_accuracy_that_rises_with_epsilon(curve: dict[float, float], rise: float | None) -> None:
    doubt = distrust.accuracy_rises(curve)

    assert (None if doubt is None else pytest.approx(doubt.value)) == rise


@pytest.mark.parametrize(("alone", "flagged"), [(0, False), (2, False), (3, True)])
def test_a_black_box_wins_by_more_than_two_in_a_thousand(alone: int, flagged: bool) -> None:
    white = torch.arange(1000) < 600
    black = white & (torch.arange(1000) >= alone)  # the black box gets so many more wrong
    black[700:] = True  # and is behind elsewhere, which is no merit of the model's

    doubt = distrust.black_box_wins(white, black)

    assert (doubt is not None) == flagged
    if doubt is not None:
        assert doubt.value == pytest.approx(alone / 1000)


def test_nan_and_foreign_labels_are_errors() -> None:
    distrust.check_logits(torch.tensor([[1.0, float("-inf")]]), "m")
    with pytest.raises(LatcliError, match="m returns NaN for 1 of 2 images"):
        distrust.check_logits(torch.tensor([[1.0, 2.0], [float("nan"), 0.0]]), "m")
    distrust.check_labels(torch.tensor([0, 9]), 10, "d")
    for labels in ([0, 10], [-1, 3]):
        with pytest.raises(LatcliError, match="d has labels from"):
            distrust.check_labels(torch.tensor(labels), 10, "d")
