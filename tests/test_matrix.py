"""The loss matrix: closed forms on a linear model, nothing counted twice or dropped, doubts that are deserved."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from latcli.engine.datasets.base import Dataset, Defaults, make_dataset
from latcli.engine.evaluation.matrix import BROKEN_BY_PGD, Evaluation, Progress, Subject, examine
from latcli.engine.evaluation.samples import Column
from latcli.engine.evaluation.settings import EvalSettings
from latcli.engine.localize import center_mask, epsilon_matrix
from latcli.engine.noise import derive_seed, item_seeds
from latcli.errors import LatcliError, UsageError, WeightsError

SIDE, EPSILON, CENTER = 6, 0.2, 0.4
IMAGES = 40


def images(classes: int = 2, count: int = IMAGES, seed: int = 0) -> Dataset:
    """Random grey images with random labels: a model gets about 1 in `classes` of them right."""
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.integers(0, 256, (count, 1, SIDE, SIDE), dtype=np.uint8))
    y = torch.from_numpy(rng.integers(0, classes, count))
    y[:classes] = torch.arange(classes)
    names = [str(index) for index in range(classes)]
    return make_dataset("noise", (x, y), (x, y), names, Defaults(EPSILON, CENTER, "paper-cnn"))


def linear(classes: int = 2, seed: int = 1, scale: float = 0.3) -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, classes))
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    return net.eval()


def labelled_by(net: nn.Module, data: Dataset, wrong: int = 0) -> Dataset:
    """The same images with the labels that the network gives them, but for the first few."""
    y = net(data.x_test.float() / 255).argmax(dim=1)
    y[:wrong] = (y[:wrong] + 1) % len(data.class_names)
    return make_dataset("noise", (data.x_test, y), (data.x_test, y), data.class_names, data.defaults)


def settings(**changes: object) -> EvalSettings:
    chosen: dict[str, object] = {
        "images": IMAGES,
        "epsilon": EPSILON,
        "mask_from": "center",
        "center": CENTER,
        "steps": 10,
        "restarts": 1,
        "controls": True,
        "until_wrong": False,
        "strong": None,
        "batch": 16,
        "seed": 3,
    }
    return EvalSettings.from_json(chosen | changes)


def evaluated(net: nn.Module, data: Dataset, fast: nn.Module | None = None, **changes: object) -> Evaluation:
    evaluation = Evaluation([Subject("net", net, fast or net)], data, settings(**changes))
    evaluation.run(lambda _progress: None)
    return evaluation


def margins(net: nn.Module, data: Dataset, eps_N1HW: torch.Tensor) -> np.ndarray:
    """By hand, in float64: the other class's logit minus the label's at the worst image inside the box."""
    weights, bias = net[1].weight.detach().double().numpy(), net[1].bias.detach().double().numpy()
    x = data.x_test.double().numpy().reshape(len(data.y_test), -1) / 255
    eps = eps_N1HW.double().numpy().reshape(len(x), -1)
    y = data.y_test.numpy()
    direction, offset = weights[1 - y] - weights[y], bias[1 - y] - bias[y]
    worst = np.clip(x + np.sign(direction) * eps, 0, 1)
    return (worst * direction).sum(axis=1) + offset


def loss_and_accuracy(margin_N: np.ndarray) -> tuple[float, float]:
    return float(np.log1p(np.exp(margin_N)).mean()), float((margin_N < 0).mean())


def eps_of(name: str, seed: int = 3) -> torch.Tensor:
    mask = center_mask((SIDE, SIDE), CENTER).expand(IMAGES, -1, -1, -1)
    if name == "natural":
        return torch.zeros(IMAGES, 1, SIDE, SIDE)
    seeds = item_seeds(derive_seed(seed, "evaluation"), torch.arange(IMAGES)).tolist()
    return epsilon_matrix(mask, EPSILON, {"standard": "all"}.get(name, name), seeds)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["natural", "standard", "background", "foreground", "random"])
def test_a_linear_model_has_its_closed_form_in_every_column(name: str) -> None:
    net, data = linear(), images()

    cell = evaluated(net, data).columns[0][name].cell()

    loss, accuracy = loss_and_accuracy(margins(net, data, eps_of(name)))
    assert cell.loss == pytest.approx(loss, rel=2e-6)  # float32 logits
    assert cell.accuracy == accuracy
    assert cell.n == IMAGES


def test_the_columns_differ_so_that_none_can_stand_in_for_another() -> None:
    cells = {name: column.cell().loss for name, column in evaluated(linear(), images()).columns[0].items()}

    assert len(set(cells.values())) == 5
    assert cells["standard"] == max(cells.values(), key=lambda loss: loss or 0)
    assert cells["natural"] == min(cells.values(), key=lambda loss: loss or 0)


@pytest.mark.parametrize("strong", [None, "quick"])
def test_until_wrong_gives_the_same_accuracy_and_no_loss(strong: str | None) -> None:
    # PGD on a linear model ends in the right corner, so that the first wrong guess is the last one.
    net, data = linear(), images()
    until_wrong = evaluated(net, data, until_wrong=True, strong=strong).columns[0]

    for name in ("standard", "background", "foreground", "random"):
        assert until_wrong[name].cell().accuracy == loss_and_accuracy(margins(net, data, eps_of(name)))[1]
        assert until_wrong[name].cell().loss is None
    for name in ("standard", "background") if strong else ():
        assert until_wrong[f"{name}-strong"].cell().accuracy == until_wrong[name].cell().accuracy


def test_images_that_are_wrong_as_they_are_stay_counted() -> None:
    net = linear(scale=0.01)
    data = labelled_by(net, images(), wrong=10)
    columns = evaluated(net, data, epsilon=1e-6, until_wrong=True, strong="quick").columns[0]

    for name, column in columns.items():
        assert (column.cell().n, column.cell().accuracy) == (IMAGES, 0.75), name


def test_attacked_images_are_every_so_many_th_and_natural_ones_are_all() -> None:
    evaluation = evaluated(linear(), images(), images=7, controls=False)

    assert evaluation.chosen_N.tolist() == [0, 5, 11, 17, 22, 28, 34]
    assert {name: column.cell().n for name, column in evaluation.columns[0].items()} == {
        "natural": IMAGES,
        "standard": 7,
        "background": 7,
    }


def test_what_an_image_gets_does_not_depend_on_the_batch() -> None:
    net, data = linear(classes=4), images(classes=4)
    small, large = (evaluated(net, data, batch=batch).columns[0] for batch in (3, 40))

    for name in small:
        assert torch.equal(small[name].right_N, large[name].right_N)
        assert torch.allclose(small[name].loss_N, large[name].loss_N, rtol=1e-5)


def test_the_fast_form_finds_and_the_exact_one_scores() -> None:
    net, data = linear(), images()
    other = linear(seed=9)
    misled = evaluated(net, data, fast=other).columns[0]

    # The other model's worst corner, under this model's logits.
    direction = other[1].weight[1 - data.y_test] - other[1].weight[data.y_test]
    x = data.x_test.float().flatten(1) / 255
    worst = (x + EPSILON * direction.detach().sign()).clamp(0, 1)
    with torch.no_grad():
        expected = nn.functional.cross_entropy(net[1](worst), data.y_test)
    assert misled["standard"].cell().loss == pytest.approx(float(expected), rel=1e-5)


# cut off and taken up again


class StopError(Exception):
    pass


def cut_off(after: int) -> Callable[[Progress], None]:
    seen: list[Progress] = []

    def after_batch(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == after:
            raise StopError

    return after_batch


@pytest.mark.parametrize("after", range(1, 24, 3))
def test_an_evaluation_cut_off_anywhere_ends_as_an_undisturbed_one(after: int) -> None:
    net, data = linear(classes=4), images(classes=4)
    subjects = [Subject("one", net, net), Subject("other", linear(4, seed=5), linear(4, seed=5))]
    chosen = settings(strong="quick", controls=False)
    whole = Evaluation(subjects, data, chosen)
    batches: list[Progress] = []
    whole.run(batches.append)

    first, second = (Evaluation(subjects, data, chosen) for _ in range(2))
    with pytest.raises(StopError):
        first.run(cut_off(after))
    for ours, theirs in zip(second.columns, first.columns, strict=True):
        for name, column in ours.items():
            column.take(theirs[name].tensors(), "samples")
    rest: list[Progress] = []
    second.run(rest.append)

    assert rest == batches[after:]  # what was done is not done again
    for ours, theirs in zip(second.columns, whole.columns, strict=True):
        for name in ours:
            for part in ("right", "loss", "broken_by", "vanished", "allowed"):
                one, other = ours[name].tensors()[part], theirs[name].tensors()[part]
                assert torch.equal(one.nan_to_num(-7), other.nan_to_num(-7)), (name, part)


def test_samples_that_do_not_fit_are_refused() -> None:
    column = Column.empty(5)
    with pytest.raises(WeightsError, match=r"samples\.safetensors does not fit the evaluation: right"):
        column.take(Column.empty(4).tensors(), "samples.safetensors")
    with pytest.raises(WeightsError, match="does not fit"):
        column.take({}, "samples.safetensors")


def test_a_cell_of_a_column_that_is_not_done_is_a_defect() -> None:
    with pytest.raises(ValueError, match="not done"):
        Column.empty(3).cell()


# the strong suite


def test_the_strong_columns_are_never_above_those_of_pgd_alone() -> None:
    net, data = linear(classes=6), images(classes=6)
    columns = evaluated(net, data, strong="quick", steps=1, controls=False).columns[0]

    for name in ("standard", "background"):
        pgd, strong = columns[name], columns[f"{name}-strong"]
        assert bool((strong.right_N <= pgd.right_N).all())
        wrong_by_pgd = (pgd.right_N == 0) & (columns["natural"].right_N == 1)
        assert torch.equal(strong.broken_by_N == BROKEN_BY_PGD, wrong_by_pgd)
        assert torch.equal(strong.right_N == 1, (strong.broken_by_N == -1) & (columns["natural"].right_N == 1))


class Quantized(nn.Module):
    """A front that rounds: no gradient passes it, though changes do."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net((x * 4).round() / 4)


def test_masked_gradients_are_flagged_and_square_sees_through() -> None:
    net = Quantized(linear(scale=0.1)).eval()
    data = labelled_by(net, images(count=IMAGES))
    evaluation = evaluated(net, data, strong="quick", controls=False)
    columns = evaluation.columns[0]
    doubts = {(name, doubt.check): doubt for name, doubt in evaluation.doubts(0)}

    assert doubts["standard", "vanishing-gradients"].value == 1.0
    assert doubts["background", "vanishing-gradients"].value == 1.0
    gain = doubts["standard-strong", "black-box-wins"].value
    assert gain > 0.1
    assert columns["standard-strong"].cell().accuracy <= columns["standard"].cell().accuracy - gain + 1e-9


def test_an_honest_model_is_not_doubted() -> None:
    net = linear(classes=6)
    evaluation = evaluated(net, images(classes=6), strong="quick")

    assert list(evaluation.doubts(0)) == []
    assert examine(evaluation.subjects[0], torch.rand(8, 1, SIDE, SIDE)) == []


def test_a_middle_that_covers_the_image_is_flagged_as_nothing_to_change() -> None:
    evaluation = evaluated(linear(), images(), center=0.99, controls=False)

    assert [(name, doubt.check) for name, doubt in evaluation.doubts(0)] == [("background", "nothing-to-change")]


# bad input


class Broken(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.net(x)
        return torch.where(x.mean(dim=(1, 2, 3))[:, None] > 0.5, math.nan, logits)


def test_nan_logits_are_an_error() -> None:
    net = Broken(linear())
    with pytest.raises(LatcliError, match=r"net returns NaN for \d+ of 16 images"):
        evaluated(net, images())
    with pytest.raises(LatcliError, match="returns NaN"):
        examine(Subject("net", net, net), torch.ones(2, 1, SIDE, SIDE))


def test_a_model_without_a_gradient_is_an_error() -> None:
    class Severed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.detach().flatten(1)[:, :2]

    net = Severed()
    with pytest.raises(LatcliError, match="net gives no gradient"):
        examine(Subject("net", net, net), torch.rand(2, 1, SIDE, SIDE))


def test_labels_out_of_range_and_an_empty_set_are_errors() -> None:
    data = images()
    data.y_test[5] = 7
    with pytest.raises(LatcliError, match="noise has labels from 0 to 7, and the model 2 classes"):
        evaluated(linear(), data)
    empty = Dataset(
        "empty", data.x_train, data.y_train, data.x_test[:0], data.y_test[:0], ("0", "1"), data.defaults, "0"
    )
    with pytest.raises(LatcliError, match="empty has no test images"):
        Evaluation([Subject("net", linear(), linear())], empty, settings())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": 0}, "images is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"epsilon": 1.5}, "epsilon is 1.5"),
        ({"center": 1.0}, "center is 1"),
        ({"mask_from": "nowhere"}, "no mask-from called 'nowhere'"),
        ({"strong": "huge"}, "no strong budget called 'huge'"),
        ({"steps": 0}, "at least one step"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        settings(**changes)
