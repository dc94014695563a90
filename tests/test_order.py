"""The order of samples: every rank's shares together are the minibatches of one process, whatever the step begun at."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latcli.engine.training.order import Order
from latcli.errors import UsageError


@given(
    seed=st.integers(0, 2**32),
    ranks=st.integers(1, 4),
    share=st.integers(1, 5),
    spare=st.integers(0, 30),
    first=st.integers(0, 20),
    natural=st.integers(0, 20),
)
def test_the_ranks_shares_are_the_minibatch(
    seed: int, ranks: int, share: int, spare: int, first: int, natural: int
) -> None:
    batch = ranks * share
    natural = min(natural, batch)
    whole = Order(seed, batch + spare, batch)
    parts = [Order(seed, batch + spare, batch, rank, ranks) for rank in range(ranks)]

    alone = next(whole.requests(first))
    together = [next(part.requests(first)) for part in parts]

    assert torch.equal(alone.samples_B, torch.cat([one.samples_B for one in together]))
    assert torch.equal(alone.seeds_B, torch.cat([one.seeds_B for one in together]))
    assert sum(part.of_mine(natural) for part in parts) == natural
    firsts = [
        index for rank, part in enumerate(parts) for index in range(rank * share, rank * share + part.of_mine(natural))
    ]
    assert firsts == list(range(natural))


@given(first=st.integers(0, 30))
def test_a_stream_begun_later_goes_on_as_the_one_begun_at_once(first: int) -> None:
    order = Order(3, 23, 5)
    all_along = list(islice(order.requests(0), 32))
    begun_later = next(order.requests(first))

    assert torch.equal(all_along[first].samples_B, begun_later.samples_B)
    assert torch.equal(all_along[first].seeds_B, begun_later.seeds_B)


def test_a_batch_that_cannot_be_parted_is_refused() -> None:
    with pytest.raises(UsageError, match="10 cannot be parted into 4 equal shares"):
        Order(0, 100, 10, 0, 4)
    with pytest.raises(UsageError, match="101 is larger than the 100 training images"):
        Order(0, 100, 101)
