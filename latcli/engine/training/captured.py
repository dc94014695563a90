"""A computation of fixed shapes, recorded once as a CUDA graph and replayed.

The inner attack of a small network is hundreds of tiny kernels, and launching them takes longer than running them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

#: From tensors to one tensor, on their device, without asking the host for anything on the way.
Computation = Callable[..., torch.Tensor]
#: Records a computation that reads and writes the same memory each time; what it returns runs it again.
Recorder = Callable[[Callable[[], torch.Tensor]], tuple[Callable[[], None], torch.Tensor]]

#: Libraries choose kernels and take memory in the first runs, which must not be recorded.
_WARM_UPS = 3


class Captured:
    """`computation`, replayed on copies of what it is given; recorded anew for each new set of shapes.

    What else it reads, such as weights, must keep its place in memory, and is read as it is at that moment.
    """

    def __init__(self, computation: Computation, record: Recorder | None = None) -> None:
        self._computation = computation
        self._record = record or record_cuda_graph
        self._recorded: dict[tuple[torch.Size, ...], _Recording] = {}

    def __call__(self, *given: torch.Tensor) -> torch.Tensor:
        """What the computation returns for these tensors, in memory of its own."""
        shapes = tuple(tensor.shape for tensor in given)
        if shapes not in self._recorded:
            self._recorded[shapes] = _Recording(self._computation, given, self._record)
        return self._recorded[shapes](given)


class _Recording:
    """One recorded run: the memory it reads, the memory it writes, and how to run it again."""

    def __init__(self, computation: Computation, given: tuple[torch.Tensor, ...], record: Recorder) -> None:
        self._inputs = tuple(tensor.clone() for tensor in given)
        self._replay, self._output = record(lambda: computation(*self._inputs))

    def __call__(self, given: tuple[torch.Tensor, ...]) -> torch.Tensor:
        for kept, new in zip(self._inputs, given, strict=True):
            kept.copy_(new)
        self._replay()
        return self._output.clone()


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
