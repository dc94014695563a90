"""The form in which gradients are computed: the same function, faster; the classifier that scores is left alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from latcli.engine.models.classifier import Classifier, Normalize
from latcli.engine.models.preprocessing import Preprocessing
from latcli.engine.precision import gradient_form


def classifier_of(*layers: nn.Module) -> Classifier:
    net = nn.Sequential(Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), *layers)
    return Classifier("test", net, Preprocessing(20, 16, "bilinear"), [f"{k}" for k in range(5)], "none")


def lively(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """A batch norm that does something: statistics and weights far from 0 and 1."""
    for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
        if tensor is not None:
            with torch.no_grad():
                tensor.uniform_(0.3, 2.0)
    return norm


class Residual(nn.Module):
    """Uses the output of its convolution twice, so that its norm must not be folded away."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = lively(nn.BatchNorm2d(8))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        raw_BCHW = self.convolution(x_BCHW)
        return self.norm(raw_BCHW) + 0.5 * raw_BCHW


class Shared(nn.Module):
    """One convolution that two different norms follow."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(8, 8, 1)
        self.norms = nn.ModuleList([lively(nn.BatchNorm2d(8)), lively(nn.BatchNorm2d(8))])

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        for norm in self.norms:
            x_BCHW = norm(self.convolution(x_BCHW))
        return x_BCHW


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def head() -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]


NETWORKS = {
    "plain": lambda: [nn.Conv2d(3, 8, 3), lively(nn.BatchNorm2d(8)), nn.ReLU(), *head()],
    "grouped, strided, no bias": lambda: [
        nn.Conv2d(3, 8, 3, stride=2, bias=False),
        lively(nn.BatchNorm2d(8)),
        nn.Conv2d(8, 8, 3, groups=8),
        lively(nn.BatchNorm2d(8, affine=False)),
        *head(),
    ],
    "norm first": lambda: [lively(nn.BatchNorm2d(3)), nn.Conv2d(3, 8, 3), nn.ReLU(), *head()],
    "residual": lambda: [nn.Conv2d(3, 8, 3), Residual(), *head()],
    "shared": lambda: [nn.Conv2d(3, 8, 3), Shared(), *head()],
    "batch statistics": lambda: [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), *head()],
}


def input_gradient(model: object, x_BChw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x_BChw = x_BChw.clone().requires_grad_()
    logits_BK = model(x_BChw)  # type: ignore[operator]
    (gradient_BChw,) = torch.autograd.grad(logits_BK.square().sum(), x_BChw)
    return logits_BK.detach(), gradient_BChw


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_it_is_the_same_function_with_the_same_gradient(network: str, precision: str) -> None:
    classifier = classifier_of(*NETWORKS[network]())
    x_BChw = torch.rand(6, 3, 16, 16)

    expected, found = (input_gradient(m, x_BChw) for m in (classifier, gradient_form(classifier, precision)))  # type: ignore[arg-type]

    for expected_tensor, found_tensor in zip(expected, found, strict=True):
        torch.testing.assert_close(found_tensor, expected_tensor, rtol=1e-4, atol=1e-5)


def norms_run(model: object, classifier: Classifier) -> int:
    """How many batch norms the model runs, counted by torch itself."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        model(torch.rand(2, 3, 16, 16))  # type: ignore[operator]
    return sum(event.count for event in profile.key_averages() if event.key == "aten::batch_norm")


@pytest.mark.parametrize(("network", "left"), [("plain", 0), ("grouped, strided, no bias", 0), ("norm first", 1)])
def test_norms_after_convolutions_are_gone(network: str, left: int) -> None:
    classifier = classifier_of(*NETWORKS[network]())
    assert norms_run(gradient_form(classifier, "fp32"), classifier) == left


def test_bf16_is_close_and_returns_fp32() -> None:
    classifier = classifier_of(*NETWORKS["plain"]())
    x_BChw = torch.rand(6, 3, 16, 16)
    logits_BK = gradient_form(classifier, "bf16")(x_BChw)

    assert logits_BK.dtype == torch.float32
    assert not torch.equal(logits_BK, classifier(x_BChw))  # bf16 it was
    torch.testing.assert_close(logits_BK, classifier(x_BChw), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_classifier_itself_is_left_as_it_is(network: str) -> None:
    classifier = classifier_of(*NETWORKS[network]())
    before = copy.deepcopy(classifier.state_dict())
    modules = [type(module) for module in classifier.modules()]
    input_gradient(gradient_form(classifier, "auto"), torch.rand(2, 3, 16, 16))

    after = classifier.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert [type(module) for module in classifier.modules()] == modules
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in classifier.modules())
    assert all(p.grad is None and not p.requires_grad for p in classifier.parameters())
    assert not classifier.training
