"""A network in the form for gradients gives an image the same bits alone and in any batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from latcli.engine.attacks.objectives import cross_entropy_odds
from latcli.engine.attacks.pgd import input_gradient
from latcli.engine.batch_invariance import BatchInvariant, varying_layers
from latcli.engine.precision import FORMS, Form, GradientForm

SHAPE = (3, 32, 32)


def _network(width: int = 640, classes: int = 500) -> nn.Module:
    """Wide at its end, as classifiers are: that is where libraries change their kernels."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 24, 3, stride=2), nn.ReLU(inplace=True), nn.Conv2d(24, width, 1)]
    return nn.Sequential(
        *layers, nn.ReLU6(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
    )


class _OfItsPlace(nn.Module):
    """Adds to each image its place in the batch: the crudest dependence on the others."""

    def forward(self, x_BK: torch.Tensor) -> torch.Tensor:
        return x_BK + torch.arange(len(x_BK))[:, None]


def _images(count: int = 8) -> torch.Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def _answers(model: BatchInvariant, x_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return input_gradient(model, x_BCHW, torch.zeros(len(x_BCHW), dtype=torch.int64), cross_entropy_odds)


@pytest.mark.parametrize("form", FORMS)
def test_an_image_gets_the_same_bits_alone_and_in_any_batch(form: Form) -> None:
    images = _images()
    model = BatchInvariant(GradientForm(_network(), form), SHAPE)
    alone = [_answers(model, images[number : number + 1]) for number in range(8)]
    for order in ([0, 1], [7, 3, 5], [2, 2, 0], list(range(8)), list(reversed(range(8)))):
        gradient_BCHW, logits_BK = _answers(model, images[order])
        for place, number in enumerate(order):
            assert torch.equal(logits_BK[place], alone[number][1][0]), (order, place)
            assert torch.equal(gradient_BCHW[place], alone[number][0][0]), (order, place)


def test_a_layer_that_looks_at_its_neighbours_is_found_and_given_one_image_at_a_time() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4), _OfItsPlace(), nn.ReLU()).requires_grad_(False)
    fast = GradientForm(net, "fp32")
    assert [type(layer) for layer in varying_layers(fast, SHAPE) if not isinstance(layer, nn.Linear)] == [_OfItsPlace]
    images = _images(3)
    assert not torch.equal(fast(images)[2], fast(images[2:])[0])
    model = BatchInvariant(fast, SHAPE)
    assert torch.equal(model(images)[2], model(images[2:])[0])
    assert model.form == "fp32"


def test_layers_that_treat_images_alike_stay_whole() -> None:
    net = nn.Sequential(nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.BatchNorm2d(3), nn.Flatten())
    assert varying_layers(GradientForm(net, "fp32"), SHAPE) == []


def test_who_attacks_one_photo_does_not_wait_for_the_examination() -> None:
    class Counting(nn.Identity):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            Counting.calls += 1
            return x

    model = BatchInvariant(GradientForm(nn.Sequential(nn.Flatten(), Counting()), "fp32"), SHAPE)
    model(_images(1))
    assert Counting.calls == 1
    model(_images(2))
    examined = Counting.calls
    assert examined > 2
    model(_images(2))
    assert Counting.calls == examined + 1


def test_layers_with_other_inputs_and_outputs_are_let_be() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory = nn.LSTM(32, 4)  # a leaf that returns a tuple
            self.rounding = _Rounding()
            self.scale = nn.Linear(1, 1)
            self.flat = nn.Flatten()

        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            rows, _ = self.memory(x_BCHW[:, 0].transpose(0, 1))
            return rows.mean(dim=0) + self.rounding(self.flat(x_BCHW))[:, :4] + self.scale(torch.ones(1)).mean()

    model = BatchInvariant(GradientForm(Odd(), "fp32"), SHAPE)
    assert model(_images(2)).shape == (2, 4)


class _Rounding(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return x.round()
