"""The copy of a network in training that its inner attack runs on, in the form in which this machine is fastest.

Knows layouts and number formats; must not know attacks, regimes or data. Updates and scores never use it.

Legend: B images, C channels, H, W pixels, K classes.
"""

from __future__ import annotations

import copy
import time
from typing import Literal, get_args

import torch
from torch import nn

from latcli.engine.precision import Precision
from latcli.errors import UsageError

Form = Literal["fp32", "fp32-channels-last", "bf16-channels-last"]
FORMS: tuple[Form, ...] = get_args(Form)

#: How many times as fast bf16 must be to be taken: less is not worth its rounding.
_WORTH_IT = 1.15
#: Larger batches take long to measure and say no more.
_LARGEST_MEASURED = 256


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


def choose_form(net: nn.Module, image_shape: tuple[int, int, int], batch: int, precision: Precision) -> Form:
    """The form for this network on its device: given by `precision`, or for auto the fastest in a short measurement.

    fp32 and bf16 leave nothing to measure, so that equal seeds give equal weights on one machine. A CPU without units
    for bf16 is not asked about it.
    """
    if precision != "auto":
        return "bf16-channels-last" if precision == "bf16" else "fp32-channels-last"
    device = next(net.parameters()).device
    x_BCHW = torch.rand(min(batch, _LARGEST_MEASURED), *image_shape, generator=torch.Generator().manual_seed(0)).to(
        device
    )
    seconds = {form: _seconds(GradientForm(net, form), x_BCHW) for form in FORMS[:2]}
    best = min(seconds, key=lambda form: seconds[form])
    if has_bf16_units(device):
        faster = _seconds(GradientForm(net, "bf16-channels-last"), x_BCHW) * _WORTH_IT < seconds[best]
        return "bf16-channels-last" if faster else best
    return best


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


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
