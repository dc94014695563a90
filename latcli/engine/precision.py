"""How a network runs while gradients are looked for, and which way is the fastest here; never how anything is scored.

Knows layouts, number formats and devices; must not know attacks, regimes, data sets or photos.

Legend: B images, C channels, H, W pixels, K classes.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import nn

from latcli.engine.folding import device_of, same_logits
from latcli.errors import UsageError

Precision = Literal["auto", "fp32", "bf16"]

Form = Literal["fp32", "fp32-channels-last", "bf16-channels-last"]
FORMS: tuple[Form, ...] = get_args(Form)

#: What is taken unless another form is faster by its share below: small gains are noise, and the choice should last.
_USUAL: Form = "fp32-channels-last"
_WORTH_IT: Mapping[Form, float] = {"fp32": 1.05, "bf16-channels-last": 1.15}

#: Largest difference of logits, as a share of their own spread, that a form may make.
_TOLERANCE: Mapping[Form, float] = {"fp32": 1e-3, "fp32-channels-last": 1e-3, "bf16-channels-last": 0.1}

#: Larger batches take long to measure and say no more.
_LARGEST_MEASURED = 256

#: Images that a remembered form is tried on again.
_CHECKED = 4


class GradientForm:
    """A frozen copy of `net` in evaluation mode; `refresh` brings it up to the weights of `net`.

    A copy, because casting the weights anew for each of many gradients of one step costs more than one cast a step.
    """

    def __init__(self, net: nn.Module, form: Form) -> None:
        self.form = form
        self._net = net
        self._copy = copy.deepcopy(net).eval().requires_grad_(False)
        self._dtype = torch.bfloat16 if form.startswith("bf16") else torch.float32
        if self._dtype == torch.bfloat16:
            for module in self._copy.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):  # norms keep their statistics in fp32
                    module.to(torch.bfloat16)
        if form.endswith("channels-last"):
            self._copy.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._pairs = list(zip(_tensors(self._copy), _tensors(net), strict=True))

    @property
    def network(self) -> nn.Module:
        """The copy itself."""
        return self._copy

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the weights as they are now."""
        for mine, theirs in self._pairs:
            mine.copy_(theirs)

    def __call__(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """logits_BK in fp32 of images in [0, 1]."""
        if self.form.endswith("channels-last"):
            x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        # The weights are bf16 already; autocast takes care of whatever stands between the layers.
        with torch.autocast(x_BCHW.device.type, dtype=torch.bfloat16, enabled=self._dtype == torch.bfloat16):
            logits_BK: torch.Tensor = self._copy(x_BCHW)
        return logits_BK.float()


def _tensors(net: nn.Module) -> list[torch.Tensor]:
    return [*net.parameters(), *net.buffers()]


@dataclass(frozen=True)
class Measured:
    """A choice and what it rests on: seconds of one gradient in each form that could be used."""

    form: Form
    seconds: Mapping[Form, float]


class FormMemory(Protocol):
    """Where choices are kept, so that they are made once, and are the same from one run to the next."""

    def recall(self, key: str) -> Measured | None:
        """What was remembered under this key."""
        ...

    def remember(self, key: str, measured: Measured, about: str) -> None:
        """Keep a choice; `about` says to a person what was measured."""
        ...


class ProcessMemory:
    """Remembers as long as the process lives."""

    def __init__(self) -> None:
        self._kept: dict[str, Measured] = {}

    def recall(self, key: str) -> Measured | None:
        """What was remembered under this key."""
        return self._kept.get(key)

    def remember(self, key: str, measured: Measured, about: str) -> None:
        """Keep a choice."""
        self._kept[key] = measured


#: Where nobody hands in another memory.
_PROCESS_MEMORY = ProcessMemory()


def choose_form(
    net: nn.Module,
    image_shape: tuple[int, int, int],
    batch: int,
    precision: Precision,
    memory: FormMemory | None = None,
) -> Form:
    """The form for this network on its device: given by `precision`, or for auto the fastest in a short measurement.

    image_shape: (C, H, W). memory: None for one as long as the process. fp32 and bf16 leave nothing to measure. A form
    in which the network fails, or gives other logits than as it is, is no candidate, and a CPU without units for bf16
    is not asked about it.
    """
    if precision != "auto":
        return "bf16-channels-last" if precision == "bf16" else _USUAL
    batch = min(batch, _LARGEST_MEASURED)
    device = device_of(net)
    key = _key(net, image_shape, batch, device)
    memory = memory or _PROCESS_MEMORY
    measured = memory.recall(key)
    # Weights are no part of the key, but whether a number format is exact enough for a network depends on them.
    if measured is None or not _still_agrees(net, measured.form, image_shape, device):
        measured = _measure(net, image_shape, batch, device)
        shape = "x".join(map(str, image_shape))
        memory.remember(key, measured, f"{_size(net)} weights, {shape}, batch {batch}, {device.type}")
    return measured.form


def has_bf16_units(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") or capabilities.get("bf16"))
    return False


def check_form(name: str) -> Form:
    """The form of that name. Raises UsageError for one that this version does not know."""
    for form in FORMS:
        if form == name:
            return form
    raise UsageError(f"there is no gradient form called '{name}'", f"known: {', '.join(FORMS)}")


def _still_agrees(net: nn.Module, form: Form, image_shape: tuple[int, int, int], device: torch.device) -> bool:
    x_BCHW = _images(_CHECKED, image_shape, device)
    return _agrees(GradientForm(net, form), x_BCHW, _as_it_is(net, x_BCHW))


def _images(count: int, image_shape: tuple[int, int, int], device: torch.device) -> torch.Tensor:
    return torch.rand(count, *image_shape, generator=torch.Generator().manual_seed(0)).to(device)


@torch.no_grad()
def _as_it_is(net: nn.Module, x_BCHW: torch.Tensor) -> torch.Tensor:
    logits_BK: torch.Tensor = copy.deepcopy(net).eval()(x_BCHW)
    return logits_BK.float()


def _measure(net: nn.Module, image_shape: tuple[int, int, int], batch: int, device: torch.device) -> Measured:
    x_BCHW = _images(batch, image_shape, device)
    expected_BK = _as_it_is(net, x_BCHW)
    seconds: dict[Form, float] = {}
    for form in FORMS:
        if form.startswith("bf16") and not has_bf16_units(device):
            continue
        try:
            fast = GradientForm(net, form)
            if _agrees(fast, x_BCHW, expected_BK):
                seconds[form] = _seconds(fast, x_BCHW)
        except RuntimeError:  # an operation that does not know this layout or number format
            continue
    return Measured(_best(seconds), seconds)


def _best(seconds: Mapping[Form, float]) -> Form:
    """The fastest, each form's seconds weighted by how much faster than the usual one it must be."""
    if not seconds:
        return "fp32"  # as it is; whatever is wrong with it shows where it is used
    return min(seconds, key=lambda form: seconds[form] * _WORTH_IT.get(form, 1.0))


@torch.no_grad()
def _agrees(fast: GradientForm, x_BCHW: torch.Tensor, expected_BK: torch.Tensor) -> bool:
    return same_logits(expected_BK, fast(x_BCHW), _TOLERANCE[fast.form])


def gradient_seconds(net: nn.Module, form: Form, image_shape: tuple[int, int, int], batch: int) -> float:
    """Seconds that one gradient of so many images takes here, in this form. image_shape: (C, H, W)."""
    return _seconds(GradientForm(net, form), _images(batch, image_shape, device_of(net)), repeats=2)


def _seconds(model: GradientForm, x_BCHW: torch.Tensor, repeats: int = 4) -> float:
    """Seconds of one gradient of the images; the best of several, after one that only warms up."""
    times = []
    for _ in range(repeats):
        _synchronize(x_BCHW.device)
        begun = time.perf_counter()
        with torch.enable_grad():
            leaf_BCHW = x_BCHW.detach().requires_grad_()
            torch.autograd.grad(model(leaf_BCHW).sum(), leaf_BCHW)
        _synchronize(x_BCHW.device)
        times.append(time.perf_counter() - begun)
    return min(times[1:])


def _key(net: nn.Module, image_shape: tuple[int, int, int], batch: int, device: torch.device) -> str:
    """All that a measurement depends on: layers and their shapes, images, device, threads, torch."""
    layers = [(type(module).__name__, str(module.extra_repr())) for module in net.modules()]
    shapes = [tuple(tensor.shape) for tensor in _tensors(net)]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    told = (layers, shapes, image_shape, batch, device.type, name, torch.get_num_threads(), torch.__version__)
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def _cpu_name() -> str:
    capabilities = torch.cpu.get_capabilities()
    return ",".join(
        [str(capabilities.get("cpu_name")), *sorted(unit for unit, has in capabilities.items() if has is True)]
    )


def _size(net: nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in net.parameters()):,}"


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
