"""Batch norm folded into the convolution before it: the same function with fewer passes over memory.

Knows modules and their order; must not know number formats, attacks or photos. Legend: B images, C channels, H, W
pixels, K classes.
"""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

#: Largest difference of logits, as a share of their own spread, that folding may make: fp32 rounding is far below it.
_TOLERANCE = 1e-3


@torch.no_grad()
def folded(net: nn.Module, image_shape: tuple[int, int, int]) -> nn.Module:
    """A copy in evaluation mode without the batch norms that follow a convolution.

    `net` maps x_BCHW in [0, 1], of image_shape (C, H, W), to logits_BK. Norms stay where folding changes its logits.
    """
    unfolded = copy.deepcopy(net).eval()
    without = copy.deepcopy(unfolded)
    x_2CHW = torch.rand(2, *image_shape, generator=torch.Generator().manual_seed(0)).to(device_of(net))
    pairs = _followed_by_norm(without, x_2CHW)
    for convolution, norm in pairs:
        _fold(without, convolution, norm)
    # A network that uses a convolution's own output besides, or mixes the images of a batch, shows it here.
    return without if pairs and same_logits(unfolded(x_2CHW), without(x_2CHW), _TOLERANCE) else unfolded


def same_logits(expected_BK: torch.Tensor, found_BK: torch.Tensor, tolerance: float) -> bool:
    """Whether no logit is off by more than `tolerance` of the spread of those expected."""
    expected_BK = expected_BK.float()
    difference = (found_BK.float() - expected_BK).abs().max()
    return bool(difference <= tolerance * expected_BK.std().clamp_min(1e-6))


def device_of(net: nn.Module) -> torch.device:
    """Where the network's weights lie; the CPU for one that has none."""
    return next((tensor.device for tensor in (*net.parameters(), *net.buffers())), torch.device("cpu"))


def _followed_by_norm(net: nn.Module, x_BCHW: torch.Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions whose output goes into a batch norm, found by running the network once; each used once only."""
    made_by: dict[int, nn.Conv2d] = {}
    outputs: list[torch.Tensor] = []  # kept alive, so that no two tensors have the same id
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def note_output(module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        outputs.append(output)
        made_by[id(output)] = module

    def note_input(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        convolution = made_by.get(id(inputs[0]))
        if convolution is not None and module.track_running_stats:
            pairs.append((convolution, module))

    hooks = [m.register_forward_hook(note_output) for m in net.modules() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(note_input) for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    try:
        net(x_BCHW)
    finally:
        for hook in hooks:
            hook.remove()
    uses = Counter(module for pair in pairs for module in pair)
    return [pair for pair in pairs if uses[pair[0]] == uses[pair[1]] == 1]


def _fold(net: nn.Module, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Give the convolution the norm's scale and shift, and leave of the norm what it does besides (timm: activate)."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, mean, variance, norm.eps, norm.weight, norm.bias
    )
    rest = getattr(norm, "act", None)
    for parent in net.modules():
        for name, child in parent.named_children():
            if child is norm:
                setattr(parent, name, rest if isinstance(rest, nn.Module) else nn.Identity())
