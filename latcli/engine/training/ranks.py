"""What one of several processes that train one model must know of the others; must not know how they are started.

Each takes its share of every minibatch. Nothing that a sample meets depends on which rank it falls to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import nn


class Ranks(Protocol):
    """The processes that train together, as one of them sees it; `rank` counts from 0 to below `size`."""

    rank: int
    size: int

    def join(self, net: nn.Module) -> nn.Module:
        """The network as it is to be called in an update: after `backward`, all ranks hold the mean of the gradients.

        The weights stay those of `net`, and those of rank 0 where they differed.
        """
        ...

    def mean(self, values: Sequence[float]) -> list[float]:
        """The mean of each value over all ranks, which must all come here. Raises LatcliError where one is gone."""
        ...


class Alone:
    """The only process there is."""

    rank = 0
    size = 1

    def join(self, net: nn.Module) -> nn.Module:
        """The network itself."""
        return net

    def mean(self, values: Sequence[float]) -> list[float]:
        """The values themselves."""
        return list(values)
