"""Computations that a CUDA device replays as one recording, so that it never waits for Python to launch a kernel.

A recorded computation must not wait for the host, and what it reads besides its arguments, such as weights, must keep
its place in memory; it is read as it is at each replay.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

#: From tensors to tensors (or None).
Computation = Callable[..., tuple[Any, ...]]

#: Recordings of one computation or model are for so many sets of shapes; beyond, all are made anew.
_MOST = 8


@dataclass(frozen=True, eq=False)
class _Recording:
    inputs: tuple[Tensor, ...]
    replay: Callable[[], None]
    outputs: tuple[Any, ...]


#: By computation and shapes. None: met once, and computed plainly. False: it cannot be recorded.
Recordings = dict[tuple[Hashable, ...], "_Recording | bool | None"]


def record_cuda_graph(run: Callable[[], tuple[Any, ...]]) -> tuple[Callable[[], None], tuple[Any, ...]]:
    """Record `run` on the current CUDA device: what runs it again, and where its results lie after each time.

    Raises RuntimeError where it cannot be recorded.
    """
    graph, (pool, _) = torch.cuda.CUDAGraph(), _pool(torch.cuda.current_device())
    # The outer context sets the stream back where a failed recording does not. Of this thread alone: other threads,
    # and NCCL's watchdog, may use the device meanwhile.
    with (
        torch.cuda.stream(torch.cuda.current_stream()),
        torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"),
    ):
        outputs = run()
    return graph.replay, outputs


@cache
def _pool(device: int) -> tuple[Any, Any]:
    """Memory for all recordings on a device, since no two are replayed at once, and an empty recording.

    The latter is kept so that the memory outlives all others: torch gives it up with the last recording in it.
    """
    pool, anchor = torch.cuda.graph_pool_handle(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(anchor, pool=pool, capture_error_mode="thread_local"):
        torch.zeros(1, device=device)
    return pool, anchor


def replayed(
    recordings: Recordings,
    name: Hashable,
    computation: Computation,
    given: tuple[Tensor, ...],
) -> tuple[Any, ...]:
    """What `computation(*given)` returns, replayed from the third time on that it is asked for tensors of such shapes.

    The first time it is computed plainly, since libraries choose kernels and take memory then; the second time it is
    recorded. What cannot be recorded is computed plainly for ever. The next replay writes its results where these lie.
    """
    key = (name, *(tensor.shape for tensor in given))
    if key not in recordings:
        if len(recordings) >= _MOST:
            recordings.clear()
        recordings[key] = None
        return computation(*given)
    found = recordings[key]
    if found is None:
        inputs = tuple(tensor.clone() for tensor in given)
        try:
            found = _Recording(inputs, *record_cuda_graph(lambda: computation(*inputs)))
        except RuntimeError:  # a network that waits for the host, or no memory for a second copy of all
            found = False
        recordings[key] = found
    if not isinstance(found, _Recording):
        return computation(*given)
    for kept, new in zip(found.inputs, given, strict=True):
        if kept is not new:  # a result that is the recording's own input needs no copy
            kept.copy_(new)
    found.replay()
    return found.outputs
