"""What makes figures doubtful, each as a small function of tensors or numbers; must not know data sets or runs.

After Croce and Hein, ICML'20 (the flags of AutoAttack), and Carlini et al., arXiv:1902.06705 (section 5). Legend: B, N
images, C channels, H, W pixels, K classes. eps_B1HW is the epsilon matrix in [0, 1] image scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from latcli.engine.attacks.objectives import cross_entropy_odds
from latcli.engine.attacks.pgd import input_gradient
from latcli.engine.attacks.settings import Model
from latcli.errors import LatcliError

Check = Literal[
    "vanishing-gradients",
    "random-model",
    "probabilities",
    "nothing-to-change",
    "accuracy-rises",
    "black-box-wins",
]

#: Doubtful from this share of images on.
_FEW = 0.01
#: An image of which less than this share may change shows nothing by holding out.
_NEARLY_NOTHING = 0.01
#: Two outputs for one input may differ by this share of the largest logit: kernels may add in another order.
_REPEATABLE = 1e-5
#: Points of accuracy (as a share) that chance may make; the rest is for shares that no binary number holds.
_CHANCE = 0.002 + 1e-9


@dataclass(frozen=True)
class Doubt:
    """One reason not to believe a figure; `value` is what was measured: of most checks a share of the images."""

    check: Check
    value: float
    text: str


def vanished(model: Model, x_BCHW: torch.Tensor, y_B: torch.Tensor, eps_B1HW: torch.Tensor) -> torch.Tensor:
    """Bool (B,): something may change, and the attack's objective has gradient 0 at all of it at the image itself."""
    gradient_BCHW, _ = input_gradient(model, x_BCHW, y_B, cross_entropy_odds)
    steepest_B = (gradient_BCHW * (eps_B1HW > 0)).abs().amax(dim=(1, 2, 3))
    return (steepest_B == 0) & (eps_B1HW > 0).any(dim=(1, 2, 3))


def allowed_share(eps_B1HW: torch.Tensor) -> torch.Tensor:
    """Share (B,) of each image's pixels that may change."""
    return (eps_B1HW > 0).float().mean(dim=(1, 2, 3))


def check_logits(logits_BK: torch.Tensor, model: str) -> None:
    """Raise LatcliError where a logit is NaN: no guess and no loss can be read from it."""
    if logits_BK.isnan().any():
        rows = int(logits_BK.isnan().any(dim=1).sum())
        raise LatcliError(
            f"{model} returns NaN for {rows} of {len(logits_BK)} images", "a model that diverged cannot be evaluated"
        )


def check_labels(y_B: torch.Tensor, classes: int, data: str) -> None:
    """Raise LatcliError where a label is none of the model's classes."""
    if int(y_B.min()) < 0 or int(y_B.max()) >= classes:
        found = f"{int(y_B.min())} to {int(y_B.max())}"
        raise LatcliError(f"{data} has labels from {found}, and the model {classes} classes", "check the data set")


def random_model(first_BK: torch.Tensor, second_BK: torch.Tensor) -> Doubt | None:
    """Two outputs for the same images differ: the attack climbs a moving hill, and the score is a throw of dice."""
    largest = float(first_BK.abs().max().clamp_min(1e-30))
    difference = float((first_BK - second_BK).abs().max()) / largest
    if difference <= _REPEATABLE:
        return None
    text = f"the model gives different logits for the same image (by {difference:.2g} of the largest)"
    return Doubt("random-model", difference, f"{text}; its robustness may be chance")


def probabilities(logits_BK: torch.Tensor) -> Doubt | None:
    """Rows that are never negative and sum to 1: a softmax too many, which flattens gradients and spoils the loss."""
    sums_B = logits_BK.sum(dim=1)
    if logits_BK.shape[1] < 2 or bool((logits_BK < 0).any()) or not torch.allclose(sums_B, torch.ones_like(sums_B)):
        return None
    text = "the model returns probabilities instead of logits: losses are wrong, and gradients fade"
    return Doubt("probabilities", 1.0, text)


def vanishing_gradients(vanished_N: torch.Tensor) -> Doubt | None:
    """Gradients that are exactly 0 wherever a change is allowed: attacks that follow them do not start."""
    share = float(vanished_N.double().mean())
    if share < _FEW:
        return None
    text = f"the gradient is 0 wherever a change is allowed for {100 * share:.1f} % of the images"
    return Doubt("vanishing-gradients", share, f"{text}; holding out there may be no robustness")


def nothing_to_change(allowed_N: torch.Tensor) -> Doubt | None:
    """Images of which (nearly) nothing may change: no attack could succeed."""
    share = float((allowed_N < _NEARLY_NOTHING).double().mean())
    if share < _FEW:
        return None
    text = f"less than {100 * _NEARLY_NOTHING:g} % of the pixels may change in {100 * share:.1f} % of the images"
    return Doubt("nothing-to-change", share, text)


def accuracy_rises(curve: Mapping[float, float]) -> Doubt | None:
    """A larger epsilon gives higher accuracy: every smaller change is allowed, too, so an attack has failed.

    `curve` gives the accuracy (0 to 1) for each epsilon. The largest rise is told.
    """
    points = sorted(curve.items())
    rises = [
        (after - before, low, high)
        for index, (low, before) in enumerate(points)
        for high, after in points[index + 1 :]
        if after - before > _CHANCE
    ]
    if not rises:
        return None
    rise, low, high = max(rises)
    text = f"epsilon {high:.4g} gives {100 * rise:.1f} points more accuracy than epsilon {low:.4g}"
    return Doubt("accuracy-rises", rise, f"{text}: the attack does not find what is there")


def black_box_wins(white_N: torch.Tensor, black_N: torch.Tensor) -> Doubt | None:
    """A black-box attack beats the white-box ones: gradients lead nowhere.

    `white_N` and `black_N` are bool, True where the image is right in the worst case of the white-box attacks and in
    that of the black-box ones. Counted is what the black box alone gets wrong.
    """
    gain = float((white_N & ~black_N).double().mean())
    if gain <= _CHANCE:
        return None
    text = f"a black-box attack alone gets {100 * gain:.1f} % of the images wrong: gradients are masked"
    return Doubt("black-box-wins", gain, text)
