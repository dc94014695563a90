"""The loss matrix: closed forms on a linear model, nothing counted twice or dropped, doubts that are deserved."""

import math
from collections import deque
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn

from latcli.engine.datasets.base import Defaults, make_dataset
from latcli.engine.evaluation.matrix import BROKEN_BY_ATTACK, EvalSettings, Evaluation, Subject
from latcli.engine.localize import center_mask, epsilon_matrix
from latcli.engine.noise import derive_seed, item_seeds
from latcli.errors import LatcliError, UsageError

SIDE, EPSILON, CENTER = 6, 0.2, 0.4
IMAGES = 40
ATTACKED = ("standard", "background", "foreground", "random")


def images(classes=2, seed=0):
    """Random grey images with random labels: a model gets about 1 in `classes` of them right."""
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.integers(0, 256, (IMAGES, 1, SIDE, SIDE), dtype=np.uint8))
    y = torch.from_numpy(rng.integers(0, classes, IMAGES))
    y[:classes] = torch.arange(classes)
    names = [str(index) for index in range(classes)]
    return make_dataset("noise", (x, y), (x, y), names, Defaults(EPSILON, CENTER, "paper-cnn"))


def linear(classes=2, seed=1, scale=0.3):
    net = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, classes))
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    return net.eval()


def labelled_by(net, data, wrong=0):
    """The same images with the labels that the network gives them, but for the first few."""
    y = net(data.x_test.float() / 255).argmax(dim=1)
    y[:wrong] = (y[:wrong] + 1) % len(data.class_names)
    return make_dataset("noise", (data.x_test, y), (data.x_test, y), data.class_names, data.defaults)


def settings(**changes):
    usual = {"images": IMAGES, "epsilon": EPSILON, "center": CENTER, "steps": 10, "controls": True}
    return EvalSettings(**usual | {"batch": 16, "seed": 3} | changes)


def evaluated(net, data, fast=None, **changes):
    evaluation = Evaluation([Subject("net", net, fast or net)], data, settings(**changes))
    deque(evaluation.run(), maxlen=0)
    return evaluation


def worst_margins(net, data, name):
    """By hand, in float64: the other class's logit minus the label's at the worst image inside an input's box."""
    mask = center_mask((SIDE, SIDE), CENTER).expand(IMAGES, -1, -1, -1)
    seeds = item_seeds(derive_seed(3, "evaluation"), torch.arange(IMAGES)).tolist()
    region = {"standard": "all", "natural": "all"}.get(name, name)
    eps = epsilon_matrix(mask, EPSILON, region, seeds).double().numpy().reshape(IMAGES, -1) * (name != "natural")
    weights, bias = net[1].weight.detach().double().numpy(), net[1].bias.detach().double().numpy()
    x, y = data.x_test.double().numpy().reshape(IMAGES, -1) / 255, data.y_test.numpy()
    direction, offset = weights[1 - y] - weights[y], bias[1 - y] - bias[y]
    return (np.clip(x + np.sign(direction) * eps, 0, 1) * direction).sum(axis=1) + offset


def test_a_linear_model_has_its_closed_form_in_every_column():
    net, data = linear(), images()
    columns = evaluated(net, data).columns[0]
    losses = {}
    for name in ("natural", *ATTACKED):
        margin_N = worst_margins(net, data, name)
        losses[name], accuracy = columns[name].figures()
        assert losses[name] == pytest.approx(np.log1p(np.exp(margin_N)).mean(), rel=2e-6)  # float32 logits
        assert accuracy == (margin_N < 0).mean()
    assert len(set(losses.values())) == 5  # none can stand in for another
    assert max(losses, key=lambda name: losses[name] or 0) == "standard"


def test_until_wrong_gives_the_same_accuracy_and_no_loss():
    for attack in ["pgd", "mi-fgsm"]:
        for strong in [None, "quick"]:
            # On a linear model either attack ends in the right corner, so that the first wrong guess is the last one.
            net, data = linear(), images()
            columns = evaluated(net, data, until_wrong=True, strong=strong, attack=attack).columns[0]
            for name in ATTACKED:
                assert columns[name].figures() == (None, (worst_margins(net, data, name) < 0).mean())
            for name in ("standard", "background") if strong else ():
                assert columns[f"{name}-strong"].figures()[1] == columns[name].figures()[1]


def test_an_l2_ball_cuts_what_the_box_allows():
    net, data = linear(), images()
    losses = [evaluated(net, data, norm="l2", radius=radius).columns[0]["standard"].figures()[0] for radius in (0.2, 9)]
    box = evaluated(net, data).columns[0]
    assert losses[1] == pytest.approx(box["standard"].figures()[0], rel=1e-3)  # no corner is further than 1.2
    assert box["natural"].figures()[0] < losses[0] < losses[1]


def test_attacked_images_are_every_so_many_th_and_natural_ones_are_all():
    evaluation = evaluated(linear(), images(), images=7, controls=False)
    chosen = [0, 5, 11, 17, 22, 28, 34]
    assert evaluation.chosen_N.tolist() == chosen
    counts = {name: len(column.right_N) for name, column in evaluation.columns[0].items()}
    assert counts == {"natural": IMAGES, "standard": 7, "background": 7}
    for whole, part in zip(evaluation.outcomes("natural"), evaluation.outcomes("natural", chosen=True), strict=True):
        assert torch.equal(whole[chosen], part)


def test_what_an_image_gets_does_not_depend_on_the_batch_and_wrong_ones_stay_counted():
    net, data = linear(scale=0.01), labelled_by(linear(scale=0.01), images(), wrong=10)
    for column in evaluated(net, data, epsilon=1e-6, until_wrong=True, strong="quick").columns[0].values():
        assert (len(column.right_N), column.figures()[1]) == (IMAGES, 0.75)
    net, data = linear(classes=4), images(classes=4)
    small, large = (evaluated(net, data, batch=batch).columns[0] for batch in (3, 40))
    for name in small:
        assert torch.equal(small[name].right_N, large[name].right_N)
        assert torch.allclose(small[name].loss_N, large[name].loss_N, rtol=1e-5)


def test_the_fast_form_finds_and_the_exact_one_scores():
    net, data, other = linear(), images(), linear(seed=9)
    misled = evaluated(net, data, fast=other).columns[0]
    # The other model's worst corner, under this model's logits.
    direction = other[1].weight[1 - data.y_test] - other[1].weight[data.y_test]
    worst = (data.x_test.float().flatten(1) / 255 + EPSILON * direction.detach().sign()).clamp(0, 1)
    with torch.no_grad():
        expected = nn.functional.cross_entropy(net[1](worst), data.y_test)
    assert misled["standard"].figures()[0] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("after", [1, 4, 15])
def test_an_evaluation_cut_off_anywhere_ends_as_an_undisturbed_one(after):
    data, other = images(classes=4), linear(4, seed=5)
    subjects = [Subject("one", linear(4), linear(4)), Subject("other", other, other)]
    whole, first, second = (Evaluation(subjects, data, settings(strong="quick", controls=False)) for _ in range(3))
    batches = [about(one) for one in whole.run()]
    deque(islice(first.run(), after), maxlen=0)
    second.restore(first.tensors(), "samples")
    assert [about(one) for one in second.run()] == batches[after:]  # what was done is not done again
    assert_same_columns(second, whole)


def about(progress):
    return progress.subject, progress.column, progress.place_B.tolist()


def assert_same_columns(found, expected, atol=0.0):
    others = expected.tensors()
    for name, part in found.tensors().items():
        if not name.endswith("seconds_1"):
            near = {"rtol": 0.0, "atol": atol if name.endswith("loss_N") else 0.0}
            torch.testing.assert_close(part.nan_to_num(-7), others[name].nan_to_num(-7), **near)


@pytest.mark.parametrize("size", [2, 3, 50])
def test_the_shares_of_several_processes_are_the_whole(size):
    data = images(classes=4)
    subjects = [Subject("one", linear(4), linear(4))]
    whole, *parts = (Evaluation(subjects, data, settings(strong="quick", images=7)) for _ in range(size + 1))
    deque(whole.run(), maxlen=0)
    shares = [list(part.run(rank, size)) for rank, part in enumerate(parts)]
    for share, part in zip(shares[1:], parts[1:], strict=True):
        for one in share:
            found = part.columns[one.subject][one.column].images(one.place_B)
            parts[0].columns[one.subject][one.column].take(one.place_B, found, one.seconds)
    assert_same_columns(parts[0], whole, atol=1e-6)


class Quantized(nn.Module):
    """A front that rounds: no gradient passes it, though changes do."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net((x * 4).round() / 4)


def test_masked_gradients_are_flagged_and_square_sees_through():
    net = Quantized(linear(scale=0.1)).eval()
    data = labelled_by(net, images())
    evaluation = evaluated(net, data, strong="quick", controls=False)
    doubts = {(name, doubt.check): doubt for name, doubt in evaluation.doubts(0)}
    assert doubts["standard", "vanishing-gradients"].value == doubts["background", "vanishing-gradients"].value == 1.0
    gain = doubts["standard-strong", "black-box-wins"].value
    assert gain > 0.1
    columns = evaluation.columns[0]
    assert columns["standard-strong"].figures()[1] <= columns["standard"].figures()[1] - gain + 1e-9
    # What a black box found first is no gain over the white box.
    black = evaluated(net, data, attack="square", steps=100, strong="quick", controls=False)
    assert dict(black.doubts(0))["standard-strong"].value > 0.1


def test_an_honest_model_is_not_doubted_and_a_middle_that_covers_the_image_is():
    evaluation = evaluated(linear(classes=6), images(classes=6), strong="quick", steps=1, controls=False)
    assert list(evaluation.doubts(0)) == []
    columns, clean = evaluation.columns[0], evaluation.columns[0]["natural"].right_N == 1
    for name in ("standard", "background"):  # the strong columns are never above those of the attack alone
        alone, strong = columns[name], columns[f"{name}-strong"]
        assert bool((strong.right_N <= alone.right_N).all())
        assert torch.equal(strong.broken_by_N == BROKEN_BY_ATTACK, (alone.right_N == 0) & clean)
        assert torch.equal(strong.right_N == 1, (strong.broken_by_N == -1) & clean)
    covered = evaluated(linear(), images(), center=0.99, controls=False)
    assert [(name, doubt.check) for name, doubt in covered.doubts(0)] == [("background", "nothing-to-change")]


def test_nan_logits_labels_out_of_range_and_an_empty_set_are_errors():
    class Broken(nn.Module):
        def forward(self, x):
            return torch.where(x.mean(dim=(1, 2, 3))[:, None] > 0.5, math.nan, x.flatten(1)[:, :2])

    data = images()
    with pytest.raises(LatcliError, match=r"net returns NaN or infinite logits for \d+ of 16 images"):
        evaluated(Broken(), data)
    data.y_test[5] = 7
    with pytest.raises(LatcliError, match="the labels 0 to 7 do not fit the 2 classes of net"):
        evaluated(linear(), data)
    empty = replace(data, x_test=data.x_test[:0], y_test=data.y_test[:0])
    with pytest.raises(LatcliError, match="noise has no test images"):
        Evaluation([Subject("net", linear(), linear())], empty, settings())


def test_settings_that_cannot_be_meant_are_refused():
    for changes, message in [
        ({"center": 1.0}, "center is 1"),
        ({"steps": 0}, "at least one step"),
        ({"norm": "l2"}, "--radius"),
        ({"norm": "l2", "radius": 1.0, "strong": "full"}, "does not support --norm l2"),
        ({"curve_epsilons": (0.2, 0.1)}, "not ascending"),
    ]:
        with pytest.raises(UsageError, match=message):
            settings(**changes)
