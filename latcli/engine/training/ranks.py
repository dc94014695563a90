"""What one of several processes that train one model must know of the others; must not know how they are started.

Each takes its share of every minibatch. Nothing that a sample meets depends on which rank it falls to.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

from torch import nn

T = TypeVar("T")


class Ranks(Protocol):
    """The processes that train together, as one of them sees it; `rank` counts from 0 to below `size`.

    They run on `nodes` machines, as many on each.
    """

    rank: int
    size: int
    nodes: int

    def join(self, net: nn.Module) -> nn.Module:
        """The network as it is to be called in an update: after `backward`, all ranks hold the mean of the gradients.

        The weights stay those of `net`, and those of rank 0 where they differed.
        """
        ...

    def mean(self, values: Sequence[float]) -> list[float]:
        """The mean of each value over all ranks, which must all come here. Raises LatcliError where one is gone."""
        ...

    def meet(self) -> None:
        """Wait, for as long as it takes, until all ranks have come to this point. Raises LatcliError if one fails."""
        ...

    def share(self, value: T | None) -> T:
        """Rank 0's value, on all ranks; what the others give is not looked at."""
        ...

    def watched(self) -> AbstractContextManager[None]:
        """A block in which the loss of another rank is a LatcliError that names it, whatever it breaks."""
        ...


class Alone:
    """The only process there is."""

    rank = 0
    size = 1
    nodes = 1

    def join(self, net: nn.Module) -> nn.Module:
        """The network itself."""
        return net

    def mean(self, values: Sequence[float]) -> list[float]:
        """The values themselves."""
        return list(values)

    def meet(self) -> None:
        """Nothing: there is nobody to wait for."""

    def share(self, value: T | None) -> T:
        """The value itself."""
        assert value is not None
        return value

    def watched(self) -> AbstractContextManager[None]:
        """A block like any other."""
        return nullcontext()
