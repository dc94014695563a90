"""The settings that every attack takes, and the signature that every attack has.

Legend: B images, C channels, H, W pixels, K classes. eps_B1HW is the epsilon matrix in [0, 1] image scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar, get_args, runtime_checkable

from torch import Tensor

from latcli.engine.cuda_graph import Recordings
from latcli.engine.registry import unknown_name
from latcli.errors import UsageError

Norm = Literal["linf", "l2"]
Schedule = Literal["constant", "linear", "cosine"]

NORMS: tuple[Norm, ...] = get_args(Norm)
OBJECTIVES = ("ce", "margin", "top10")
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)

#: Images in [0, 1] to logits: model(x_BCHW) -> logits_BK.
Model = Callable[[Tensor], Tensor]


@runtime_checkable
class Narrowable(Protocol):
    """A model that treats each image of its batch in its own way, and can be cut down to some of them."""

    def narrowed(self, kept_b: Tensor) -> Model:
        """The same model for the images whose positions are in `kept_b` (int64)."""
        ...


@runtime_checkable
class Recordable(Protocol):
    """A model of fixed weights that waits for nothing on the host, and keeps recordings of its gradients."""

    recordings: Recordings

    def __call__(self, x_BCHW: Tensor, /) -> Tensor:
        """logits_BK of images in [0, 1]."""
        ...


def narrowed(model: Model, kept_b: Tensor) -> Model:
    """`model` for a part of its batch; most models treat all images alike and need no change."""
    return model.narrowed(kept_b) if isinstance(model, Narrowable) else model


class Watched:
    """A model before each pass of which `before` is called; what that raises ends the attack."""

    def __init__(self, model: Model, before: Callable[[], object]) -> None:
        self._model, self._before = model, before

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """logits_BK of images in [0, 1]."""
        self._before()
        return self._model(x_BCHW)

    def narrowed(self, kept_b: Tensor) -> Watched:
        """The same for some of the images."""
        return Watched(narrowed(self._model, kept_b), self._before)


@dataclass(frozen=True)
class AttackSettings:
    """How an attack searches; where it may search is the epsilon matrix alone.

    steps: gradient steps of each restart. step: what the first step moves, as a share of each pixel's own epsilon (of
    the radius for l2); schedule: how that share falls over the steps. A step of None means 2.5 / steps where it stays
    constant (Madry et al., ICLR'18) and 10 / steps where it falls: large steps find the right corner of the box, small
    ones settle in it. restarts: independent random starts, of which each image keeps its worst. random_start: off
    starts at the image itself. objective: "ce" (cross entropy), "margin" (of logits), "top10" or "topk:K" (margins of
    the K largest other logits). targeted: y_B names the class to reach instead of the class to leave. norm, radius: l2
    adds a ball of that radius (image scale, over all pixels and channels) to the box that the epsilon matrix gives.
    stop_rank: an image is left alone once k classes stand above its label (or the target stands first), with
    `stop_margin` logits to spare; 0 means never. targets: how many of the likeliest other classes apgd-t steers to, one
    after the other, and minimal considers.
    """

    steps: int = 40
    step: float | None = None
    schedule: Schedule = "cosine"
    restarts: int = 1
    random_start: bool = True
    objective: str = "ce"
    targeted: bool = False
    norm: Norm = "linf"
    radius: float | None = None
    stop_rank: int = 0
    stop_margin: float = 0.0
    targets: int = 9

    def __post_init__(self) -> None:
        for what, name, known in (("norm", self.norm, NORMS), ("schedule", self.schedule, SCHEDULES)):
            if name not in known:
                raise unknown_name(what, name, known)
        if ranks_of(self.objective) and self.targeted:
            raise UsageError(f"the objective {self.objective} cannot be used with a target", "choose ce or margin")
        if self.steps < 1 or self.restarts < 1:
            raise UsageError("an attack needs at least one step and one restart", "try --steps 40 --restarts 1")
        if self.step is not None and not 0 < self.step < math.inf:
            raise UsageError(f"the step size is {self.step:g}, not a number above 0", "leave it out for the default")
        if (self.norm == "l2") != (self.radius is not None):
            raise UsageError("--norm l2 and --radius belong together", "for example --norm l2 --radius 4")
        if self.radius is not None and not 0 < self.radius < math.inf:
            raise UsageError(f"the radius is {self.radius:g}, not a number above 0", "for example --norm l2 --radius 4")
        if self.stop_rank < 0 or not self.stop_margin >= 0:
            raise UsageError("a stop rank and its margin cannot be below 0", "a stop rank of 0 means never")
        if self.targets < 1:
            raise UsageError("a targeted attack needs at least one target", "AutoAttack uses 9")

    def step_at(self, index: int) -> float:
        """The share of epsilon (or radius) that step `index` of `steps` moves."""
        share = self.step or min(1.0, (2.5 if self.schedule == "constant" else 10.0) / self.steps)
        progress = index / self.steps
        if self.schedule == "linear":
            return share * (1.0 - progress)
        if self.schedule == "cosine":
            return share * 0.5 * (1.0 + math.cos(math.pi * progress))
        return share


def ranks_of(objective: str) -> int:
    """K of the objective "topk:K" ("top10" is "topk:10"), 0 for the others. Raises UsageError for an unknown one."""
    if objective in ("ce", "margin"):
        return 0
    name, _, count = objective.replace("top10", "topk:10").partition(":")
    if name != "topk":
        raise unknown_name("objective", objective, (*OBJECTIVES, "topk:K"))
    if not (count.isascii() and count.isdigit() and int(count)):
        raise UsageError(f"the objective '{objective}' needs a whole number above 0", "for example topk:5")
    return int(count)


def refuse_targets(settings: AttackSettings) -> None:
    """Raise UsageError for an attack that would lead the images to their labels instead of away from them."""
    if settings.targeted:
        raise UsageError("a targeted attack cannot measure accuracy", "leave the target out")


class Attack(Protocol):
    """The one signature. Must not change the model: not its mode, not its weights, not their gradients.

    x_BCHW float32 in [0, 1]; y_B int64: true labels, or target labels where settings.targeted; eps_B1HW >= 0;
    seeds_B int64: one seed an image, from which alone its random numbers come. Returns x_adv_BCHW.
    """

    def __call__(
        self, model: Model, x_BCHW: Tensor, y_B: Tensor, eps_B1HW: Tensor, settings: AttackSettings, seeds_B: Tensor
    ) -> Tensor:
        """Return adversarial images that keep the contract."""
        ...


A = TypeVar("A", bound=Attack)


def can_train(attack: A) -> A:
    """Declare, as a decorator, that `latcli train --attack` may use the attack.

    It is given few steps and no restarts, and climbs the cross entropy by the model's gradients.
    """
    attack.can_train = True  # type: ignore[attr-defined]
    return attack
