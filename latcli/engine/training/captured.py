"""A computation of fixed shapes, recorded once as a CUDA graph and replayed.

The inner attack of a small network is hundreds of tiny kernels, and launching them takes longer than running them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

#: Records a computation that reads and writes the same memory each time; what it returns runs it again.
Recorder = Callable[[Callable[[], torch.Tensor]], tuple[Callable[[], None], torch.Tensor]]

#: Libraries choose kernels and take memory in the first runs, which must not be recorded.
_WARM_UPS = 3


def record_cuda_graph(run: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
    """Record `run` on the current CUDA device: how to replay it, and where its result lies after each replay."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Of this thread alone: NCCL's watchdog asks the device for its events while we record.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        output = run()
    return graph.replay, output


def captured(
    computation: Callable[..., torch.Tensor], record: Recorder = record_cuda_graph
) -> Callable[..., torch.Tensor]:
    """`computation`, replayed on copies of the tensors that it is given; recorded anew for each new set of shapes.

    It must not wait for the host. What else it reads, such as weights, must keep its place in memory, and is read
    as it is at that moment.
    """
    recordings: dict[tuple[torch.Size, ...], Any] = {}

    def run(*given: torch.Tensor) -> torch.Tensor:
        shapes = tuple(tensor.shape for tensor in given)
        if shapes not in recordings:
            inputs = [tensor.clone() for tensor in given]
            recordings[shapes] = (inputs, *record(lambda: computation(*inputs)))
        inputs, replay, output = recordings[shapes]
        for kept, new in zip(inputs, given, strict=True):
            kept.copy_(new)
        replay()
        result: torch.Tensor = output.clone()
        return result

    return run
