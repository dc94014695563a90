"""Which samples make up each minibatch of a run, and which of them are this rank's; must not know images.

Legend: N samples of the training set, B of a minibatch, b of this rank's share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from latcli.engine.datasets.base import Request
from latcli.engine.noise import derive_seed, item_seeds, permutation
from latcli.errors import UsageError


@dataclass(frozen=True)
class Order:
    """Each epoch is a new order of all samples, of which a rest that fills no minibatch is left out.

    `samples` are there in all, `batch` make a minibatch, of which each of `ranks` takes an equal share.
    """

    seed: int
    samples: int
    batch: int
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        if self.batch > self.samples:
            raise UsageError(
                f"a batch of {self.batch} is larger than the {self.samples} training images",
                f"give --batch at most {self.samples}",
            )
        check_parts(self.batch, self.ranks)

    @property
    def share(self) -> int:
        """How many samples of a minibatch are this rank's."""
        return self.batch // self.ranks

    def of_mine(self, count: int) -> int:
        """How many of a minibatch's first `count` samples are this rank's."""
        return min(max(count - self.rank * self.share, 0), self.share)

    def requests(self, first: int) -> Iterator[Request]:
        """This rank's share of minibatch `first` and of all that follow, without end."""
        batches = self.samples // self.batch
        epoch, order_N = -1, torch.empty(0)
        index = first
        while True:
            if index // batches != epoch:
                epoch = index // batches
                order_N = permutation(derive_seed(self.seed, "order", epoch), self.samples, torch.device("cpu"))
            begin = index % batches * self.batch + self.rank * self.share
            samples_b = order_N[begin : begin + self.share]
            yield Request(samples_b, item_seeds(derive_seed(self.seed, "augment", index), samples_b))
            index += 1


def check_parts(batch: int, ranks: int) -> None:
    """Raise UsageError where a minibatch cannot be parted equally."""
    if batch % ranks:
        raise UsageError(
            f"a batch of {batch} cannot be parted into {ranks} equal shares", f"give --batch a multiple of {ranks}"
        )
