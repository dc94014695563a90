"""How a classifier runs while an attack looks for a perturbation; never how it scores one.

Knows layouts and number formats; must not know attacks or photos.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch

from latcli.engine.attacks.settings import Model
from latcli.engine.models.classifier import Classifier

Precision = Literal["auto", "fp32", "bf16"]


def gradient_form(classifier: Classifier, precision: Precision) -> Model:
    """The classifier in the form in which its gradients are computed.

    Weights and images are laid out channels last, which convolutions on CPUs and GPUs alike prefer. bf16 runs the
    network under autocast and returns fp32 logits; auto and fp32 keep fp32. The classifier itself is left as it is.
    """
    fast = copy.deepcopy(classifier).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    device_type = classifier.device.type

    def classify(x_BChw: torch.Tensor) -> torch.Tensor:
        x_BChw = x_BChw.contiguous(memory_format=torch.channels_last)
        if precision != "bf16":
            logits_BK: torch.Tensor = fast(x_BChw)
            return logits_BK
        with torch.autocast(device_type, dtype=torch.bfloat16):
            logits_BK = fast(x_BChw)
        return logits_BK.float()

    return classify
