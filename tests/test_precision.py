"""The form in which gradients are computed: the same function, faster; the classifier that scores is left alone."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from latcli.commands.form_folder import FormFolder
from latcli.engine import precision
from latcli.engine.folding import folded
from latcli.engine.models.classifier import Classifier, Normalize
from latcli.engine.models.preprocessing import Preprocessing
from latcli.engine.precision import FORMS, Form, GradientForm, Measured, ProcessMemory, choose_form

SHAPE = (3, 16, 16)


def fast(classifier: Classifier, form: Form) -> GradientForm:
    """As photos and evaluation use it."""
    return GradientForm(folded(classifier, SHAPE), form)


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
@pytest.mark.parametrize("form", ["fp32", "fp32-channels-last"])
def test_it_is_the_same_function_with_the_same_gradient(network: str, form: Form) -> None:
    classifier = classifier_of(*NETWORKS[network]())
    x_BChw = torch.rand(6, 3, 16, 16)

    expected, found = (input_gradient(m, x_BChw) for m in (classifier, fast(classifier, form)))

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
    assert norms_run(fast(classifier, "fp32-channels-last"), classifier) == left


def test_bf16_is_close_and_returns_fp32() -> None:
    classifier = classifier_of(*NETWORKS["plain"]())
    x_BChw = torch.rand(6, 3, 16, 16)
    logits_BK = fast(classifier, "bf16-channels-last")(x_BChw)

    assert logits_BK.dtype == torch.float32
    assert not torch.equal(logits_BK, classifier(x_BChw))  # bf16 it was
    torch.testing.assert_close(logits_BK, classifier(x_BChw), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_classifier_itself_is_left_as_it_is(network: str) -> None:
    classifier = classifier_of(*NETWORKS[network]())
    before = copy.deepcopy(classifier.state_dict())
    modules = [type(module) for module in classifier.modules()]
    input_gradient(fast(classifier, "fp32-channels-last"), torch.rand(2, 3, 16, 16))
    choose_form(classifier, SHAPE, 2, "auto", ProcessMemory())

    after = classifier.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert [type(module) for module in classifier.modules()] == modules
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in classifier.modules())
    assert all(p.grad is None and not p.requires_grad for p in classifier.parameters())
    assert not classifier.training


# the choice


class Rounding(nn.Module):
    """Works in any form, but in some gives other logits than as it is."""

    def __init__(self, factors: dict[str, float]) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 16 * 16, 5)
        self.factors = factors

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        if self.linear.weight.dtype == torch.bfloat16:
            form = "bf16"
        else:
            form = "channels-last" if x_BCHW.is_contiguous(memory_format=torch.channels_last) else "fp32"
        return self.linear(x_BCHW.flatten(1)) * self.factors.get(form, 1.0)


class Refusing(nn.Module):
    """Takes images in the default layout alone."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 16 * 16, 5)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.linear(x_BCHW.view(len(x_BCHW), -1))


class Counting(ProcessMemory):
    def __init__(self) -> None:
        super().__init__()
        self.measured: list[Measured] = []
        self.told: list[str] = []

    def remember(self, key: str, measured: Measured, about: str) -> None:
        super().remember(key, measured, about)
        self.measured.append(measured)
        self.told.append(about)


def test_a_choice_is_made_once_for_what_it_depends_on() -> None:
    memory, net = Counting(), classifier_of(*NETWORKS["plain"]())
    first = choose_form(net, SHAPE, 2, "auto", memory)
    assert choose_form(classifier_of(*NETWORKS["plain"]()), SHAPE, 2, "auto", memory) == first
    assert len(memory.measured) == 1
    assert memory.told == ["285 weights, 3x16x16, batch 2, cpu"]
    choose_form(net, SHAPE, 3, "auto", memory)
    choose_form(net, (3, 20, 20), 2, "auto", memory)
    choose_form(classifier_of(*NETWORKS["norm first"]()), SHAPE, 2, "auto", memory)
    assert len(memory.measured) == 4
    assert choose_form(net, SHAPE, 2, "fp32", memory) == "fp32-channels-last"
    assert choose_form(net, SHAPE, 2, "bf16", memory) == "bf16-channels-last"
    assert len(memory.measured) == 4


def test_a_form_that_gives_other_logits_is_no_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bf16_units", lambda _: True)
    wrong = {"fp32": {"channels-last": 1.01, "bf16": 1.3}, "fp32-channels-last": {"fp32": 1.0, "bf16": 0.5}}
    for factors in wrong.values():
        memory = Counting()
        choose_form(Rounding(factors), SHAPE, 4, "auto", memory)
        assert "bf16-channels-last" not in memory.measured[0].seconds
        assert ("fp32-channels-last" in memory.measured[0].seconds) == ("channels-last" not in factors)
    memory = Counting()
    choose_form(Rounding({}), SHAPE, 4, "auto", memory)
    assert set(memory.measured[0].seconds) == set(FORMS)


def test_a_remembered_form_is_tried_on_the_weights_of_the_next_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bf16_units", lambda _: True)
    monkeypatch.setattr(precision, "_seconds", lambda model, _: {"bf16-channels-last": 1.0}.get(model.form, 9.0))
    memory = Counting()
    assert choose_form(Rounding({}), SHAPE, 4, "auto", memory) == "bf16-channels-last"
    assert choose_form(Rounding({"bf16": 1.5}), SHAPE, 4, "auto", memory) == "fp32-channels-last"
    assert len(memory.measured) == 2


def test_a_form_in_which_the_network_fails_is_no_candidate() -> None:
    memory = Counting()
    assert choose_form(Refusing(), SHAPE, 4, "auto", memory) == "fp32"
    assert set(memory.measured[0].seconds) == {"fp32"}


def test_a_cpu_without_units_is_not_asked_about_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bf16_units", lambda _: False)
    memory = Counting()
    choose_form(classifier_of(*NETWORKS["plain"]()), SHAPE, 2, "auto", memory)
    assert set(memory.measured[0].seconds) == {"fp32", "fp32-channels-last"}


@pytest.mark.parametrize(
    ("seconds", "form"),
    [
        ({"fp32": 1.0, "fp32-channels-last": 1.0}, "fp32-channels-last"),
        ({"fp32": 0.97, "fp32-channels-last": 1.0}, "fp32-channels-last"),
        ({"fp32": 0.9, "fp32-channels-last": 1.0}, "fp32"),
        ({"fp32": 2.0, "fp32-channels-last": 1.0, "bf16-channels-last": 0.9}, "fp32-channels-last"),
        ({"fp32": 2.0, "fp32-channels-last": 1.0, "bf16-channels-last": 0.8}, "bf16-channels-last"),
        ({}, "fp32"),
    ],
)
def test_a_small_gain_is_not_worth_it(seconds: dict[Form, float], form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bf16_units", lambda _: True)
    monkeypatch.setattr(precision, "_seconds", lambda model, _: seconds[model.form])
    monkeypatch.setattr(precision, "_agrees", lambda model, *_: model.form in seconds)
    assert choose_form(classifier_of(*NETWORKS["plain"]()), SHAPE, 2, "auto", Counting()) == form


# the user's folder


def test_the_folder_keeps_choices_between_processes(tmp_path: Path) -> None:
    path = tmp_path / "no folder yet" / "forms"
    measured = Measured("fp32", {"fp32": 0.25, "fp32-channels-last": 0.5})
    assert FormFolder(path).recall("a") is None
    assert FormFolder(path).choices() == []
    FormFolder(path).remember("a", measured, "a network")
    FormFolder(path).remember("b", Measured("bf16-channels-last", {}), "another")
    assert FormFolder(path).recall("a") == measured
    assert [about for about, _ in FormFolder(path).choices()] == ["a network", "another"]
    assert sorted(file.name for file in path.iterdir()) == ["a.json", "b.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b'{"form": 1}',
        b'{"form": "fp8", "seconds": {}}',
        b'{"form": "fp32"}',
        b'{"form": "fp32", "seconds": {"fp32": "soon"}}',
        b'{"form": ["fp32"], "seconds": {}}',
    ],
)
def test_a_damaged_file_holds_nothing_and_is_mended(content: bytes, tmp_path: Path) -> None:
    folder = FormFolder(tmp_path)
    (tmp_path / "a.json").write_bytes(content)
    assert folder.recall("a") is None
    assert folder.choices() == []
    folder.remember("a", Measured("fp32", {"fp32": 1.0}), "a network")
    assert folder.recall("a") == Measured("fp32", {"fp32": 1.0})


def test_a_folder_that_cannot_be_written_costs_a_measurement_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    folder = FormFolder(tmp_path / "cache" / "forms")
    folder.remember("a", Measured("fp32", {}), "a network")
    assert folder.recall("a") is None
    assert folder.choices() == []


def test_it_lies_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert FormFolder.of_user().path == tmp_path / "latcli" / "forms"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert FormFolder.of_user().path == tmp_path / "home" / ".cache" / "latcli" / "forms"
