"""What an evaluation has found out, image by image, and the cells that are computed from it; must not know models.

An image whose entry is filled is done: that is all an interrupted evaluation needs to go on, and nothing can be counted
twice. Legend: N images of a column, B of a minibatch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from latcli.errors import WeightsError

_OPEN = -1
_PARTS = ("right", "loss", "broken_by", "vanished", "allowed", "seconds")


@dataclass(frozen=True)
class Cell:
    """Means over n images: cross entropy, None where none was measured, and the share (0 to 1) of right top guesses."""

    loss: float | None
    accuracy: float
    n: int
    seconds: float


@dataclass
class Column:
    """One model on one input, or on one that a suite of attacks made.

    right_N int8: 1, 0, or -1 where it is open; loss_N float32: NaN where not measured; broken_by_N int8: which attack
    of a suite got the image wrong, -1 for none; vanished_N int8: 1 where the gradient is zero at every pixel that may
    change; allowed_N float32: the share of pixels that may change; seconds_1 float64: what it has taken so far.
    """

    right_N: torch.Tensor
    loss_N: torch.Tensor
    broken_by_N: torch.Tensor
    vanished_N: torch.Tensor
    allowed_N: torch.Tensor
    seconds_1: torch.Tensor

    @classmethod
    def empty(cls, n: int) -> Column:
        """Nothing is done yet."""
        return cls(
            torch.full((n,), _OPEN, dtype=torch.int8),
            torch.full((n,), math.nan),
            torch.full((n,), -1, dtype=torch.int8),
            torch.zeros(n, dtype=torch.int8),
            torch.zeros(n),
            torch.zeros(1, dtype=torch.float64),
        )

    def is_done(self, positions_B: torch.Tensor) -> bool:
        """Whether each image at these positions is."""
        return bool((self.right_N[positions_B] != _OPEN).all())

    @property
    def done(self) -> int:
        """How many images are."""
        return int((self.right_N != _OPEN).sum())

    def cell(self) -> Cell:
        """The figures of a column that is done. One loss that was not measured leaves the mean unknown."""
        if not self.is_done(torch.arange(len(self.right_N))):
            raise ValueError("a cell of a column that is not done")
        loss = float(self.loss_N.double().mean())
        accuracy = float(self.right_N.double().mean())
        return Cell(None if math.isnan(loss) else loss, accuracy, len(self.right_N), float(self.seconds_1))

    def tensors(self) -> dict[str, torch.Tensor]:
        """Its parts by name."""
        return dict(zip(_PARTS, self._parts(), strict=True))

    def take(self, tensors: Mapping[str, torch.Tensor], what: str) -> None:
        """Fill the column with what `tensors` gave. Raises WeightsError where that does not fit; `what` names it."""
        for name, mine in zip(_PARTS, self._parts(), strict=True):
            theirs = tensors.get(name)
            if theirs is None or theirs.shape != mine.shape or theirs.dtype != mine.dtype:
                raise WeightsError(f"{what} does not fit the evaluation: {name}", "start a new evaluation")
            mine.copy_(theirs)

    def _parts(self) -> tuple[torch.Tensor, ...]:
        return self.right_N, self.loss_N, self.broken_by_N, self.vanished_N, self.allowed_N, self.seconds_1
