"""What makes figures doubtful, each as a small function of tensors or numbers.

After Croce and Hein, ICML'20 (the flags of AutoAttack), and Carlini et al., arXiv:1902.06705 (section 5).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latcli.engine.attacks.objectives import cross_entropy_odds
from latcli.engine.attacks.pgd import input_gradient
from latcli.engine.attacks.settings import Model
from latcli.errors import LatcliError, first_line

#: Doubtful from this share of images on.
_FEW = 0.01
#: An image of which less than this share may change shows nothing by holding out.
_NEARLY_NOTHING = 0.01
#: Two outputs for one input may differ by this share of the largest logit: kernels may add in another order.
_REPEATABLE = 1e-5
#: The same image alone and among others: sums of another size are rounded in another order.
_SAME_IN_BATCH = 1e-3
#: Points of accuracy (as a share) that chance may make; the rest is for shares that no binary number holds.
_CHANCE = 0.002 + 1e-9


@dataclass(frozen=True)
class Doubt:
    """One reason not to believe a figure; `value` is what was measured: of most checks a share of the images."""

    check: str
    value: float
    text: str


def vanished(model: Model, x_BCHW: Tensor, y_B: Tensor, eps_B1HW: Tensor) -> Tensor:
    """Bool (B,): something may change, and the attack's objective has gradient 0 at all of it at the image itself."""
    gradient_BCHW, _ = input_gradient(model, x_BCHW, y_B, cross_entropy_odds)
    steepest_B = (gradient_BCHW * (eps_B1HW > 0)).abs().amax(dim=(1, 2, 3))
    return (steepest_B == 0) & (eps_B1HW > 0).any(dim=(1, 2, 3))


def allowed_share(eps_B1HW: Tensor) -> Tensor:
    """Share (B,) of each image's pixels that may change."""
    return (eps_B1HW > 0).float().mean(dim=(1, 2, 3))


def examine(score: Model, x_BCHW: Tensor, name: str = "the model", gradients: Model | None = None) -> list[Doubt]:
    """What speaks against a model as a whole, from its answers to some images in [0, 1]: cheap, before any long work.

    gradients: the form in which attacks look for gradients; None where they need none. Raises LatcliError, in which the
    model is called `name`, for logits that are NaN or not one number a class, and where there is no gradient.
    """
    with torch.no_grad():
        first_BK, second_BK = score(x_BCHW).float(), score(x_BCHW).float()
        alone_1K = score(x_BCHW[:1]).float()
    if first_BK.dim() != 2 or len(first_BK) != len(x_BCHW) or first_BK.shape[1] < 2:
        shape = "x".join(map(str, first_BK.shape))
        raise LatcliError(
            f"{name} returns {shape} numbers for {len(x_BCHW)} images", "a classifier returns a logit for each class"
        )
    if first_BK.isnan().any():
        rows = int(first_BK.isnan().any(dim=1).sum())
        raise LatcliError(
            f"{name} returns NaN for {rows} of {len(first_BK)} images", "a model that diverged cannot be evaluated"
        )
    if gradients is not None:
        try:
            input_gradient(gradients, x_BCHW[:1], first_BK[:1].argmax(dim=1), cross_entropy_odds)
        except (LatcliError, RuntimeError) as error:
            cause = f": {first_line(error)}" if isinstance(error, RuntimeError) else ""
            raise LatcliError(
                f"{name} gives no gradient of its logits{cause}",
                "a model under attack must be differentiable with respect to its images",
            ) from error
    by_chance = random_model(first_BK, second_BK)
    neighbours = None if by_chance else batch_statistics(first_BK[:1], alone_1K)
    return [doubt for doubt in (by_chance, neighbours, probabilities(first_BK)) if doubt]


def _doubt(check: str, value: float, least: float, text: str) -> Doubt | None:
    return None if value < least else Doubt(check, value, text)


def _difference(first_BK: Tensor, second_BK: Tensor) -> float:
    """The largest difference between two outputs for the same images, as a share of the largest logit."""
    return float((first_BK - second_BK).abs().max()) / float(first_BK.abs().max().clamp_min(1e-30))


def random_model(first_BK: Tensor, second_BK: Tensor) -> Doubt | None:
    """Two outputs for the same images differ: gradients and scores are random."""
    difference = _difference(first_BK, second_BK)
    text = f"the model gives different logits for the same image (by {difference:.2g} of the largest)"
    return _doubt("random-model", difference, _REPEATABLE, f"{text}; its accuracy under attack may be chance")


def batch_statistics(among_BK: Tensor, alone_BK: Tensor) -> Doubt | None:
    """An image's logits differ between a batch and the image alone, as with batch norm that was left in training mode.

    Both are of the same images.
    """
    difference = _difference(among_BK, alone_BK)
    text = f"an image's logits depend on the other images of its batch (by {difference:.2g} of the largest)"
    return _doubt("batch-statistics", difference, _SAME_IN_BATCH, f"{text}; put the model into evaluation mode")


def probabilities(logits_BK: Tensor) -> Doubt | None:
    """Rows that are never negative and sum to 1: a second softmax, which flattens gradients and distorts the loss."""
    sums_B = logits_BK.sum(dim=1)
    if logits_BK.shape[1] < 2 or bool((logits_BK < 0).any()) or not torch.allclose(sums_B, torch.ones_like(sums_B)):
        return None
    text = "the model returns probabilities instead of logits: losses are wrong, and gradients fade"
    return Doubt("probabilities", 1.0, text)


def vanishing_gradients(vanished_N: Tensor) -> Doubt | None:
    """Gradients that are exactly 0 wherever a change is allowed: attacks that follow them do not start."""
    share = float(vanished_N.double().mean())
    text = f"the gradient is 0 wherever a change is allowed for {100 * share:.1f} % of the images"
    return _doubt("vanishing-gradients", share, _FEW, f"{text}; their robustness may be an artefact")


def nothing_to_change(allowed_N: Tensor) -> Doubt | None:
    """Images of which (nearly) nothing may change, so that no attack could succeed."""
    share = float((allowed_N < _NEARLY_NOTHING).double().mean())
    text = f"less than {100 * _NEARLY_NOTHING:g} % of the pixels may change in {100 * share:.1f} % of the images"
    return _doubt("nothing-to-change", share, _FEW, text)


def accuracy_rises(clean: float, attacked: float, epsilon: float) -> Doubt | None:
    """Accuracy (0 to 1) is higher under attack than without: changing nothing is allowed, too, so the attack failed."""
    rise = attacked - clean
    text = f"epsilon {epsilon:.4g} gives {100 * rise:.1f} points more accuracy than epsilon 0"
    return _doubt("accuracy-rises", rise, _CHANCE, f"{text}: the attack misses examples that exist")


def black_box_wins(white_N: Tensor, black_N: Tensor) -> Doubt | None:
    """A black-box attack beats the white-box ones: gradients are masked.

    `white_N` and `black_N` are bool, True where the image is right in the worst case of the white-box attacks and in
    that of the black-box ones. Counted is what the black box alone gets wrong.
    """
    gain = float((white_N & ~black_N).double().mean())
    text = f"a black-box attack alone gets {100 * gain:.1f} % of the images wrong: gradients are masked"
    return _doubt("black-box-wins", gain, _CHANCE, text)
