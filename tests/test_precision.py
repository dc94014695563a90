"""The form in which gradients are computed: the same function, faster; what scores is left alone."""

import pytest
import torch
from recorders import ON_CUDA
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, weight_norm

from latcli.engine import precision
from latcli.engine.models.preprocessing import Normalize
from latcli.engine.models.small import resnet20
from latcli.engine.precision import FORMS, GradientForm, gradient_model

SHAPE = (3, 16, 16)


def lively(norm):
    """A batch norm that does something: statistics and weights far from 0 and 1."""
    for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
        if tensor is not None:
            with torch.no_grad():
                tensor.uniform_(0.3, 2.0)
    return norm


class Residual(nn.Module):
    """Uses the output of its convolution twice, so that its norm must not be folded away."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = lively(nn.BatchNorm2d(8))

    def forward(self, x_BCHW):
        raw_BCHW = self.convolution(x_BCHW)
        return self.norm(raw_BCHW) + 0.5 * raw_BCHW


class Shared(nn.Module):
    """One convolution that two different norms follow."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(8, 8, 1)
        self.norms = nn.ModuleList([lively(nn.BatchNorm2d(8)), lively(nn.BatchNorm2d(8))])

    def forward(self, x_BCHW):
        for norm in self.norms:
            x_BCHW = norm(self.convolution(x_BCHW))
        return x_BCHW


class Viewing(nn.Module):
    """Takes features in the default layout alone."""

    def forward(self, x_BCHW):
        return x_BCHW.view(len(x_BCHW), -1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def head():
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]


def wrapped(wrap):
    return [wrap(nn.Conv2d(3, 8, 3)), lively(nn.BatchNorm2d(8)), nn.ReLU(), *head()]


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
    "spectral norm": lambda: wrapped(parametrizations.spectral_norm),
    "weight norm": lambda: wrapped(parametrizations.weight_norm),
    "old weight norm": lambda: wrapped(weight_norm),
    "old spectral norm": lambda: wrapped(torch.nn.utils.spectral_norm),
    "scripted": lambda: [torch.jit.script(nn.Sequential(*NETWORKS["plain"]()).eval())],
    "no layers": lambda: [nn.AdaptiveAvgPool2d(1), nn.Flatten()],
}


def input_gradient(model, x_BChw):
    x_BChw = x_BChw.clone().requires_grad_()
    logits_BK = model(x_BChw)
    (gradient_BChw,) = torch.autograd.grad(logits_BK.square().sum(), x_BChw)
    return logits_BK.detach(), gradient_BChw


def state_of(net):
    """All that the search for a form might leave changed."""
    hooks = [(type(m), m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()]
    grads = [parameter.grad for parameter in net.parameters()]
    return [hooks, grads, {name: value.tolist() for name, value in net.state_dict().items()}]


def test_it_is_the_same_function_with_the_same_gradient_and_leaves_the_network_alone():
    for form in ["fp32", "fp32-channels-last"]:
        for network in NETWORKS:
            net = nn.Sequential(Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), *NETWORKS[network]())
            before = state_of(net)
            fast = gradient_model(net, SHAPE, form=form)
            x_BChw = torch.rand(6, 3, 16, 16)
            found = input_gradient(fast, x_BChw)
            assert (fast.form, fast.note) == (form, None)
            assert state_of(net) == before
            torch.testing.assert_close(found, input_gradient(net.eval(), x_BChw), rtol=1e-4, atol=1e-5)


#: Norms that are left as they are, where any is.
LEFT = {"norm first": 1, "residual": 1, "shared": 2} | {name: 1 for name in NETWORKS if name.endswith(" norm")}


def test_norms_after_plain_convolutions_are_folded():
    for network in ["plain", "grouped, strided, no bias", *LEFT]:
        fast = gradient_model(nn.Sequential(*NETWORKS[network]()), SHAPE, "fp32")
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            fast(torch.rand(2, *SHAPE))
        norms = sum(event.count for event in profile.key_averages() if event.key == "aten::batch_norm")
        assert norms == LEFT.get(network, 0)


def test_bf16_is_close_and_returns_fp32():
    net = nn.Sequential(*NETWORKS["plain"]()).eval()
    x_BChw = torch.rand(6, *SHAPE)
    logits_BK = gradient_model(net, SHAPE, "bf16")(x_BChw)
    assert logits_BK.dtype == torch.float32
    assert not torch.equal(logits_BK, net(x_BChw))  # bf16 it was
    torch.testing.assert_close(logits_BK, net(x_BChw), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("network", ["plain", "weight norm", "old weight norm"])
def test_refreshed_it_follows_the_weights_and_statistics(network):
    net = nn.Sequential(*NETWORKS[network]())
    fast = gradient_model(net, SHAPE, "fp32")
    net.train()(torch.rand(4, *SHAPE)).square().sum().backward()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.sub_(parameter.grad, alpha=0.1)
    x_BCHW, net = torch.rand(3, *SHAPE), net.eval()
    assert not torch.allclose(fast(x_BCHW), net(x_BCHW))
    fast.refresh()
    torch.testing.assert_close(fast(x_BCHW), net(x_BCHW), rtol=1e-4, atol=1e-5)


def convolutions(channels, groups=1):
    """Two convolutions; of 64 channels, 10 million multiplications."""
    layers = [nn.Conv2d(3, channels, 1), nn.Conv2d(channels, channels, 3, padding=1, groups=groups), nn.ReLU()]
    return [*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)]


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(768, 4, batch_first=True)

    def forward(self, x_BCHW):
        rows_B1D = x_BCHW.flatten(1)[:, None]
        return self.attention(rows_B1D, rows_B1D, rows_B1D)[0][:, 0]


@pytest.mark.parametrize(
    ("layers", "with_units", "without"),
    [
        (lambda: convolutions(64), "bf16-channels-last", "fp32-channels-last"),
        (lambda: convolutions(64, groups=64), "fp32-channels-last", "fp32-channels-last"),
        (lambda: convolutions(8), "fp32-channels-last", "fp32-channels-last"),
        (lambda: [nn.Flatten(), nn.Linear(768, 2000)], "bf16-channels-last", "fp32"),
        (lambda: [Attention()], "fp32", "fp32"),
        (NETWORKS["no layers"], "fp32", "fp32"),
    ],
    ids=["convolutions", "depthwise", "small", "linear", "attention", "no layers"],
)
def test_the_form_follows_from_processor_and_network(layers, with_units, without, monkeypatch):
    net = nn.Sequential(*layers())
    for units, expected in ((True, with_units), (False, without)):
        monkeypatch.setattr(precision, "has_bf16_units", lambda _, units=units: units)
        assert gradient_model(net, SHAPE).form == expected
        assert gradient_model(net, SHAPE, "fp32").form == without
        assert gradient_model(net, SHAPE, "bf16").form == "bf16-channels-last"


class Differing(nn.Module):
    """Works in any form, but in one gives other logits than as it is."""

    def __init__(self, form, factor):
        super().__init__()
        self.linear = nn.Linear(3 * 16 * 16, 5)
        self.form, self.factor = form, factor

    def forward(self, x_BCHW):
        if self.linear.weight.dtype == torch.bfloat16:
            form = "bf16-channels-last"
        else:
            form = "fp32-channels-last" if x_BCHW.is_contiguous(memory_format=torch.channels_last) else "fp32"
        return self.linear(x_BCHW.flatten(1)) * (self.factor if form == self.form else 1.0)


def test_a_form_that_does_not_fit_gives_way_to_plain_fp32_and_says_so():
    for form in [form for form in FORMS if form != "fp32"]:
        for net in [
            lambda form: nn.Sequential(nn.Conv2d(3, 8, 3), Viewing(), nn.Linear(8 * 14 * 14, 5)),
            lambda form: Differing(form, 1.5),
            lambda form: Differing(form, float("nan")),
        ]:
            subject = net(form)
            found = gradient_model(subject, SHAPE, form=form)
            assert found.form == "fp32"
            assert form in str(found.note)
            x_BCHW = torch.rand(3, *SHAPE)
            torch.testing.assert_close(found(x_BCHW), subject(x_BCHW))


def test_a_network_that_fails_as_it_is_fails_here():
    with pytest.raises(RuntimeError, match="shapes"):
        gradient_model(nn.Sequential(nn.Flatten(), nn.Linear(5, 5)), SHAPE)


class Ending(nn.Module):
    """Convolutions that end in a ReLU in every way, and some that only seem to."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), lively(nn.BatchNorm2d(8))
        self.second, self.third, self.fourth = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.twice, self.grouped = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.rectify, self.relu = nn.ReLU(inplace=True), nn.SiLU()
        self.linear = nn.Linear(8, 10)

    def forward(self, x_BCHW):
        x_BCHW = self.rectify(self.norm(self.first(x_BCHW)))  # joined
        rest_BCHW = x_BCHW
        x_BCHW = self.third(functional.relu(self.second(x_BCHW)))  # joined
        x_BCHW += rest_BCHW
        x_BCHW = self.rectify(x_BCHW)  # joined, and the sum with it
        x_BCHW = self.relu(self.fourth(x_BCHW))
        raw_BCHW = self.twice(x_BCHW)
        x_BCHW = raw_BCHW.relu() + raw_BCHW
        return self.linear(self.grouped(x_BCHW).relu().mean(dim=(2, 3)))


class Looking(nn.Module):
    """Looks at its images, which torch.fx cannot follow."""

    def __init__(self):
        super().__init__()
        self.body = Ending()

    def forward(self, x_BCHW):
        return self.body(x_BCHW if float(x_BCHW.detach().sum()) > 0 else -x_BCHW)


class Rounded(torch.autograd.Function):
    """Steps, with the gradient of a straight line: what torch.fx would follow into, and lose."""

    @staticmethod
    def forward(ctx, x_BCHW):
        return (x_BCHW * 16).round() / 16

    @staticmethod
    def backward(ctx, gradient_BCHW):
        return gradient_BCHW


class Rounding(Looking):
    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.body(Rounded.apply(x_BCHW))


@pytest.mark.parametrize("build", [Ending, Looking, Rounding])
def test_convolutions_that_end_in_a_relu_are_joined_with_it(build, monkeypatch):
    joined = []

    def apart(x_BCHW, weight, bias, other, *about):
        joined.append(other is not None)
        out_BCHW = functional.conv2d(x_BCHW, weight, bias, *about)
        return (out_BCHW if other is None else out_BCHW + other).relu()

    monkeypatch.setattr(precision, "_convolution_relu", apart)
    net = build().eval()
    prefix = "" if build is Ending else "body."
    form = GradientForm(net, "fp32-channels-last", [(f"{prefix}first", f"{prefix}norm")], joined=True)
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(1.1)
    form.refresh()
    x_BCHW = torch.rand(3, *SHAPE)

    logits_BK, gradient_BCHW = input_gradient(form, x_BCHW)
    expected_BK, expected_BCHW = input_gradient(net, x_BCHW)

    assert joined == [False, False, True]
    torch.testing.assert_close(logits_BK, expected_BK, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient_BCHW, expected_BCHW, rtol=1e-4, atol=1e-6)


@ON_CUDA
def test_on_a_gpu_the_joined_form_is_close_and_follows_the_weights():
    net = resnet20(SHAPE, 10).cuda().eval()
    form = gradient_model(net, SHAPE, "bf16")
    assert form.note is None
    assert "_convolution_relu" in form._copy.code
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(1.1)
    form.refresh()
    x_BCHW = torch.rand(8, *SHAPE, device="cuda")
    (logits_BK, gradient_BCHW), (expected_BK, expected_BCHW) = (input_gradient(model, x_BCHW) for model in (form, net))
    assert (logits_BK - expected_BK).abs().max() < 0.1 * expected_BK.std()
    assert functional.cosine_similarity(gradient_BCHW.flatten(), expected_BCHW.flatten(), dim=0) > 0.98


class Counting(nn.Flatten):
    """Could keep something between calls."""


def with_hook(net, kind):
    getattr(net[0], f"register_{kind}_hook")(lambda *_: None)
    return net


def test_threads_share_long_passes_through_known_layers_alone(monkeypatch):
    def net_of(last=None):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), last or nn.Flatten(), nn.Linear(144, 2)).requires_grad_(False)

    def shareable(net):
        return gradient_model(net, (3, 8, 8)).shareable

    assert not shareable(net_of())  # short
    monkeypatch.setattr("latcli.engine.precision._LONG", 0)
    assert shareable(net_of())
    assert not shareable(net_of(Counting()))
    assert not shareable(with_hook(net_of(), "forward"))
    assert not shareable(with_hook(net_of(), "full_backward"))
    assert not shareable(nn.Sequential(torch.jit.script(net_of())))
    replaced = net_of()
    replaced[1].forward = lambda x_BCHW: x_BCHW.flatten(1)
    assert not shareable(replaced)
    own_and_parametrized = net_of(Counting())
    parametrizations.weight_norm(own_and_parametrized[2])
    assert not shareable(own_and_parametrized)
