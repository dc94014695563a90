"""Where an attack may go: the box that the epsilon matrix gives, alone or cut with an l2 ball.

Legend: B images, C channels, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from latcli.engine.attacks.settings import AttackSettings
from latcli.engine.noise import uniform_noise
from latcli.errors import UsageError


class Threat(Protocol):
    """A set of allowed images around x_BCHW, and how to start and to move inside it."""

    def random_start(self, seeds_B: Tensor) -> Tensor:
        """An allowed image for each seed."""
        ...

    def move(self, adv_BCHW: Tensor, gradient_BCHW: Tensor, share: float | Tensor) -> Tensor:
        """One steepest-ascent step of `share` of the allowance, projected back."""
        ...

    def tensors(self) -> tuple[Tensor, ...]:
        """Its tensors, of which the first axis is that of the images, as they are after the last move."""
        ...

    def over(self, *tensors: Tensor) -> Self:
        """The same kind of set with these tensors in place of its own, in the order of `tensors`."""
        ...


T = TypeVar("T", bound=Threat)


class LinfBox:
    """|x' - x| <= E at every pixel, and [0, 1]: the paper's threat model."""

    def __init__(self, x_BCHW: Tensor, eps_B1HW: Tensor) -> None:
        self.x_BCHW, self.eps_B1HW = x_BCHW, eps_B1HW
        self.lo_BCHW = (x_BCHW - eps_B1HW).clamp_(0.0, 1.0)
        self.hi_BCHW = (x_BCHW + eps_B1HW).clamp_(0.0, 1.0)

    def random_start(self, seeds_B: Tensor) -> Tensor:
        """x plus uniform noise of each pixel's own epsilon, as Madry et al. (ICLR'18) start."""
        noise_BCHW = uniform_noise(seeds_B, self.x_BCHW.shape[1:]).mul_(2.0).sub_(1.0)  # type: ignore[arg-type]
        return self.project_(noise_BCHW.mul_(self.eps_B1HW).add_(self.x_BCHW))

    def move(self, adv_BCHW: Tensor, gradient_BCHW: Tensor, share: float | Tensor) -> Tensor:
        """Each pixel moves by `share` of its own epsilon along the sign of its gradient."""
        # Not in place: the gradient of a mean over the image is one number, seen from every pixel.
        return self.project_(torch.addcmul(adv_BCHW, gradient_BCHW.sign(), self.eps_B1HW * share))

    def project_(self, adv_BCHW: Tensor) -> Tensor:
        """Clamp into the box, in place."""
        return torch.clamp(adv_BCHW, self.lo_BCHW, self.hi_BCHW, out=adv_BCHW)

    def tensors(self) -> tuple[Tensor, ...]:
        """The images and their epsilon matrices."""
        return self.x_BCHW, self.eps_B1HW

    def over(self, *tensors: Tensor) -> LinfBox:
        """The box around other images."""
        return LinfBox(*tensors)


class L2BallInBox:
    """||x' - x||_2 <= radius and, at every pixel, |x' - x| <= E and [0, 1]."""

    def __init__(self, x_BCHW: Tensor, eps_B1HW: Tensor, radius: float) -> None:
        self.box = LinfBox(x_BCHW, eps_B1HW)
        self.radius = radius

    def random_start(self, seeds_B: Tensor) -> Tensor:
        """The box's random start, drawn into the ball."""
        return self.project(self.box.random_start(seeds_B))

    def move(self, adv_BCHW: Tensor, gradient_BCHW: Tensor, share: float | Tensor) -> Tensor:
        """A step of length `share` of the radius along the gradient of the values that can go where it points."""
        # NaN is no direction, as it is none to the sign; infinite is steep, but divided by itself it would be NaN.
        gradient_BCHW = gradient_BCHW.nan_to_num()
        # Values at the end of their box, and pixels that may not change at all, would use up the step's length.
        up_BCHW, down_BCHW = adv_BCHW < self.box.hi_BCHW, adv_BCHW > self.box.lo_BCHW
        gradient_BCHW = gradient_BCHW * torch.where(gradient_BCHW > 0, up_BCHW, down_BCHW)
        # Scaled by the largest entry first: squares of very small gradients vanish in float32.
        gradient_BCHW = gradient_BCHW / gradient_BCHW.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-38)
        length_B111 = l2_length(gradient_BCHW).clamp_min(1e-12)[:, None, None, None]
        return self.project(adv_BCHW + gradient_BCHW * (share * self.radius / length_B111))

    def project(self, adv_BCHW: Tensor) -> Tensor:
        """The nearest allowed image.

        The nearest point of a ball cut with a box that holds its center is clip(s (v - x)) + x for the largest
        s <= 1 that keeps the norm (the problem's KKT conditions); its norm grows with s, so s is found by bisection.
        """
        x_BCHW = self.box.x_BCHW
        delta_BCHW = adv_BCHW - x_BCHW
        low_BCHW, high_BCHW = self.box.lo_BCHW - x_BCHW, self.box.hi_BCHW - x_BCHW

        def clipped(scale_B: Tensor) -> Tensor:
            return torch.clamp(delta_BCHW * scale_B[:, None, None, None], low_BCHW, high_BCHW)

        scale_B = largest_scale(lambda s_B: l2_length(clipped(s_B)) <= self.radius, delta_BCHW)
        return self.box.project_(clipped(scale_B).add_(x_BCHW))

    def tensors(self) -> tuple[Tensor, ...]:
        """Those of the box."""
        return self.box.tensors()

    def over(self, *tensors: Tensor) -> L2BallInBox:
        """The set around other images."""
        x_BCHW, eps_B1HW = tensors
        return L2BallInBox(x_BCHW, eps_B1HW, self.radius)


def l2_length(t_BCHW: Tensor) -> Tensor:
    """length_B of each image, to about 1e-6: axis by axis, since one float32 sum over a large photo is off by 3e-4."""
    for _ in range(3):
        t_BCHW = torch.linalg.vector_norm(t_BCHW, dim=-1)
    return t_BCHW


def largest_scale(fits: Callable[[Tensor], Tensor], like_BCHW: Tensor) -> Tensor:
    """The largest scale_B in [0, 1] for which `fits(scale_B)` holds, to 2^-24, given that it holds at 0."""
    B, device = len(like_BCHW), like_BCHW.device
    low_B, high_B = torch.zeros(B, device=device), torch.ones(B, device=device)
    whole_B = fits(high_B)
    for _ in range(24):
        middle_B = (low_B + high_B) / 2
        fit_B = fits(middle_B)
        low_B, high_B = torch.where(fit_B, middle_B, low_B), torch.where(fit_B, high_B, middle_B)
    return torch.where(whole_B, torch.ones_like(low_B), low_B)


def part_of(threat: T, kept_b: Tensor) -> T:
    """The set of the images whose positions are in `kept_b` (int64)."""
    return threat.over(*(tensor[kept_b] for tensor in threat.tensors()))


def threat_for(x_BCHW: Tensor, eps_B1HW: Tensor, settings: AttackSettings) -> Threat:
    """The allowed set that the settings name."""
    if settings.radius is not None:
        return L2BallInBox(x_BCHW, eps_B1HW, settings.radius)
    return LinfBox(x_BCHW, eps_B1HW)


def linf_box(x_BCHW: Tensor, eps_B1HW: Tensor, settings: AttackSettings) -> LinfBox:
    """The box, for attacks that know nothing else. Raises UsageError where the settings ask for an l2 ball."""
    if settings.norm != "linf":
        raise UsageError("this attack does not support --norm l2", "choose pgd, or leave --norm at linf")
    return LinfBox(x_BCHW, eps_B1HW)
