"""Each reason for doubt at known answers, on both sides of its threshold; and a model looked over before any work."""

import pytest
import torch
from torch import nn

from latcli.engine.evaluation import distrust
from latcli.engine.scoring import judge
from latcli.errors import LatcliError


def test_gradients_vanish_only_where_a_change_is_allowed():
    # Class 1 looks at the left pixel, class 0 at none: nothing can be gained at the right one.
    def left(x):
        return torch.stack((torch.zeros(len(x)) * x.sum(), x[:, 0, 0, 0]), dim=1)

    x = torch.full((3, 1, 1, 2), 0.5)
    eps = torch.tensor([[0.1, 0.1], [0.0, 0.1], [0.0, 0.0]]).view(3, 1, 1, 2)
    # The third may not change at all: that is another doubt.
    found = distrust.vanished(left, x, torch.zeros(3, dtype=torch.int64), eps)
    assert found.tolist() == [False, True, False]
    assert distrust.allowed_share(eps).tolist() == [1.0, 0.5, 0.0]


def test_a_confident_model_is_not_taken_for_a_masked_one():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    net[1].weight.data = torch.tensor([[400.0] * 4, [-400.0] * 4])
    x, y = torch.ones(1, 1, 2, 2), torch.zeros(1, dtype=torch.int64)
    with torch.no_grad():
        assert float(net(x).softmax(dim=1)[0, 1]) == 0.0  # cross entropy itself has no gradient left here
    assert not distrust.vanished(net, x, y, torch.full((1, 1, 2, 2), 0.1)).any()


def test_from_one_percent_of_the_images_on():
    for count, flagged in [(0, False), (9, False), (10, True), (1000, True)]:
        some_N = torch.arange(1000) < count
        for doubt in (
            distrust.vanishing_gradients(some_N.to(torch.int8)),
            distrust.nothing_to_change(torch.where(some_N, 0.0099, 0.01)),
        ):
            assert (doubt is not None) == flagged
            assert doubt is None or doubt.value == pytest.approx(count / 1000)


def test_answers_that_differ():
    for difference, random, by_neighbours in [(0, 0, 0), (1e-5, 0, 0), (1e-3, 1, 0), (0.1, 1, 1)]:
        first = torch.tensor([[2.0, -4.0], [1.0, 0.0]])
        assert (distrust.random_model(first, first + difference) is not None) == random
        assert (distrust.batch_statistics(first, first + difference) is not None) == by_neighbours


def test_probabilities_are_rows_that_sum_to_one():
    rows = ([[0.25, 0.75], [1.0, 0.0]], [[0.25, 0.75], [1.0, 0.5]], [[1.25, -0.25], [1.0, 0.0]], [[1.0], [1.0]])
    flagged = [distrust.probabilities(torch.tensor(one)) is not None for one in rows]
    assert flagged == [True, False, False, False]


def test_accuracy_that_is_higher_under_attack():
    for clean, attacked, rise in [(0.99, 0.2, None), (0.5, 0.502, None), (0.5, 0.503, 0.003), (0.2, 0.6, 0.4)]:
        doubt = distrust.accuracy_rises(clean, attacked, 0.3)
        assert (None if doubt is None else pytest.approx(doubt.value)) == rise


@pytest.mark.parametrize(("alone", "flagged"), [(0, False), (2, False), (3, True)])
def test_a_black_box_wins_by_more_than_two_in_a_thousand(alone, flagged):
    white = torch.arange(1000) < 600
    black = white & (torch.arange(1000) >= alone)  # the black box gets so many more wrong
    black[700:] = True  # and is behind elsewhere, which is no merit of the model's
    doubt = distrust.black_box_wins(white, black)
    assert (doubt is not None) == flagged
    assert doubt is None or doubt.value == pytest.approx(alone / 1000)


def linear(x_BCHW):
    weights_NK = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    return (x_BCHW - 0.5).flatten(1) @ weights_NK


def test_a_model_is_looked_over():
    for model, checks in [
        (linear, []),
        (lambda x: linear(x).log_softmax(dim=1), []),  # as good as logits
        (lambda x: linear(x).softmax(dim=1), ["probabilities"]),
        (lambda x: linear(x) + torch.randn(len(x), 3), ["random-model"]),
        (lambda x: linear(x) - linear(x).mean(dim=0), ["batch-statistics"]),
    ]:
        x_BCHW = torch.rand(16, 3, 2, 2, generator=torch.Generator().manual_seed(1))
        assert [doubt.check for doubt in distrust.examine(model, x_BCHW, "m", model)] == checks
    assert distrust.examine(lambda x: linear(x).detach(), x_BCHW, "m") == []  # an attack that needs no gradient


def test_a_model_that_cannot_be_attacked_is_refused():
    for model, message in [
        (
            lambda x: linear(x) * torch.where(x[:, :1, 0, 0] > 0.5, torch.nan, 1.0),
            r"m returns NaN for \d+ of 16 images",
        ),
        (lambda x: x.detach().flatten(1)[:, :2], "m gives no gradient of its logits"),
        (lambda x: x, "m returns 16x3x2x2 numbers for 16 images"),
        (lambda x: linear(x)[:, :1], "m returns 16x1 numbers"),
    ]:
        x_BCHW = torch.rand(16, 3, 2, 2, generator=torch.Generator().manual_seed(1))
        with pytest.raises(LatcliError, match=message) as caught:
            distrust.examine(model, x_BCHW, "m", model)
        assert caught.value.hint


def fixed(*rows):
    return lambda x_BCHW: torch.tensor(rows)


X_2CHW = torch.zeros(2, 1, 1, 1)


def test_a_sure_models_loss_is_not_lost_and_a_tie_is_no_right_answer():
    found = judge(fixed([30.0, 0.0], [-80.0, 0.0]), X_2CHW, torch.tensor([0, 0]))
    assert found.loss_B.dtype == torch.float64
    assert found.loss_B.tolist() == pytest.approx([9.357622968840175e-14, 80.0], rel=1e-3)
    assert found.right_B.tolist() == [True, False]
    assert judge(fixed([1.0, 1.0], [0.0, 1.0]), X_2CHW, torch.tensor([0, 1])).right_B.tolist() == [False, True]


def test_nothing_becomes_float64_before_it_is_on_the_cpu():
    """Apple's GPUs have no float64; a tensor that refuses it stands for one that lies there."""

    class OnDevice(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if function is torch.Tensor.cpu:
                return args[0].as_subclass(torch.Tensor).clone()
            assert function is not torch.Tensor.double
            assert not any(value is torch.float64 for value in (*args, *(kwargs or {}).values()))
            return super().__torch_function__(function, types, args, kwargs or {})

    def model(x_BCHW):
        return torch.tensor([[2.0, 0.0], [0.0, 2.0]]).as_subclass(OnDevice)

    found = judge(model, X_2CHW, torch.tensor([0, 1]).as_subclass(OnDevice))
    assert type(found.loss_B) is torch.Tensor
    assert found.right_B.tolist() == [True, True]


def test_what_cannot_be_scored_is_refused():
    for rows, labels, message in [
        ([[float("nan"), 0.0], [0.0, 1.0]], [0, 1], "m returns NaN or infinite logits for 1 of 2 images"),
        ([[float("inf"), 0.0], [0.0, float("-inf")]], [0, 1], "NaN or infinite logits for 2 of 2"),
        ([[1.0, 0.0], [0.0, 1.0]], [0, 2], "the labels 0 to 2 do not fit the 2 classes of m"),
        ([[1.0, 0.0], [0.0, 1.0]], [-1, 0], "the labels -1 to 0 do not fit"),
    ]:
        with pytest.raises(LatcliError, match=message):
            judge(fixed(*rows), X_2CHW, torch.tensor(labels), "m")
