"""How a classifier runs while an attack looks for a perturbation; never how it scores one.

Knows layouts, number formats and what can be folded; must not know attacks or photos.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Literal

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from latcli.engine.attacks.settings import Model
from latcli.engine.models.classifier import Classifier

Precision = Literal["auto", "fp32", "bf16"]

#: Largest difference of logits, as a share of their own spread, that folding may make: fp32 rounding is far below it.
_FOLDING_TOLERANCE = 1e-3


def gradient_form(classifier: Classifier, precision: Precision) -> Model:
    """The classifier in the form in which its gradients are computed; the classifier itself is left as it is.

    Batch norm is folded into the convolutions before it, and weights and images are laid out channels last, which
    convolutions prefer on CPUs and GPUs alike. bf16 runs the network under autocast and returns fp32 logits; auto and
    fp32 keep fp32.
    """
    fast = _folded(classifier)
    fast = fast.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    device_type = classifier.device.type

    def classify(x_BChw: torch.Tensor) -> torch.Tensor:
        x_BChw = x_BChw.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device_type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            logits_BK: torch.Tensor = fast(x_BChw)
        return logits_BK.float()

    return classify


@torch.no_grad()
def _folded(classifier: Classifier) -> Classifier:
    """A copy without the batch norms that follow a convolution; unfolded where that would change its logits."""
    folded = copy.deepcopy(classifier)
    crop = classifier.preprocessing.crop
    x_2Chw = torch.rand(2, 3, crop, crop, generator=torch.Generator().manual_seed(0)).to(classifier.device)
    for convolution, norm in _followed_by_norm(folded, x_2Chw):
        _fold(folded, convolution, norm)
    expected_2K, found_2K = classifier(x_2Chw), folded(x_2Chw)
    # A network that uses a convolution's own output besides, or mixes the images of a batch, shows it here.
    same = (found_2K - expected_2K).abs().max() <= _FOLDING_TOLERANCE * expected_2K.std().clamp_min(1e-6)
    return folded if same else copy.deepcopy(classifier)


def _followed_by_norm(classifier: Classifier, x_BChw: torch.Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
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

    hooks = [m.register_forward_hook(note_output) for m in classifier.modules() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(note_input) for m in classifier.modules() if isinstance(m, nn.BatchNorm2d)]
    try:
        classifier(x_BChw)
    finally:
        for hook in hooks:
            hook.remove()
    uses = Counter(module for pair in pairs for module in pair)
    return [pair for pair in pairs if uses[pair[0]] == uses[pair[1]] == 1]


def _fold(classifier: Classifier, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Give the convolution the norm's scale and shift, and leave of the norm what it does besides (timm: activate)."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, mean, variance, norm.eps, norm.weight, norm.bias
    )
    rest = getattr(norm, "act", None)
    for parent in classifier.modules():
        for name, child in parent.named_children():
            if child is norm:
                setattr(parent, name, rest if isinstance(rest, nn.Module) else nn.Identity())
