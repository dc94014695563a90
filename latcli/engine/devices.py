"""From `--device` to a torch device of this machine, and what its failures mean."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, TypeVar

from latcli.errors import MachineError, UsageError, first_line

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def open_device(name: str) -> torch.device:
    """`auto` (CUDA, then MPS, then CPU), `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises UsageError for a name that is none of these, or a device that this machine lacks.
    """
    import torch  # not above: errors are explained before torch is needed

    if name == "auto":
        if torch.cuda.is_available():
            return open_device("cuda")
        return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in {"cpu", "cuda", "mps"}:
        raise UsageError(f"there is no device called '{name}'", "known: auto, cpu, cuda, cuda:N, mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"there is no device '{name}' on this machine: CUDA devices found: {torch.cuda.device_count()}",
            "try --device auto",
        )
    if device.type == "cuda":  # scores in fp32: torch would let a GPU round factors of convolutions to 10 bits (TF32)
        torch.backends.cudnn.allow_tf32 = False
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("there is no device 'mps' on this machine", "try --device auto")
    return device


def rounded_factors(device: torch.device) -> AbstractContextManager[None]:
    """A block whose convolutions may use TF32 on a GPU, as torch has it: for gradients, whose results are scored."""
    import torch

    if device.type != "cuda":
        return nullcontext()
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=True)
    return flags


def images_that_fit(device: torch.device, compute: Callable[[int], object]) -> int | None:
    """How many images at once an attack has memory for, from the peaks of a gradient on one and on two images.

    `compute` is given how many. None on a device that does not tell its free memory.
    """
    import torch

    if device.type != "cuda":
        return None
    peaks = []
    for count in (1, 2):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        try:
            compute(count)
        except torch.OutOfMemoryError:
            return 1
        peaks.append(torch.cuda.max_memory_allocated(device) - before)
    # Kernels for two images may need less working memory than those for one.
    each = max(peaks[1] - peaks[0], peaks[1] // 4, 1)
    free, _ = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    # Half: a recording of the gradient has memory of its own (see cuda_graph), and the attack keeps images besides.
    return max(1, (free + held) // 2 // each)


def at_once(tasks: Sequence[Callable[[Callable[[], None]], T]]) -> list[T]:
    """What the tasks return. Each has a thread of its own, with its share of the threads that torch may use here.

    A task is given a function to call now and then, which ends it (CancelledError) where another one has failed, or the
    caller was interrupted. Raises what the first failed task raised, when all have ended.
    """
    import torch

    threads, with_gradients = torch.get_num_threads(), torch.is_grad_enabled()
    ended, ready = threading.Event(), threading.Barrier(len(tasks) + 1)

    def go_on() -> None:
        if ended.is_set():
            raise CancelledError

    def run(place: int, task: Callable[[Callable[[], None]], T]) -> T:
        torch.get_num_threads()  # else the first to ask gets what was set last, by whomever
        torch.set_num_threads(max(1, threads // len(tasks) + (place < threads % len(tasks))))
        ready.wait()
        with torch.set_grad_enabled(with_gradients):
            return task(go_on)

    running: list[Future[T]] = []
    try:
        with ThreadPoolExecutor(len(tasks)) as pool:
            try:
                for place, task in enumerate(tasks):
                    running.append(pool.submit(run, place, task))
                ready.wait()
                torch.set_num_threads(threads)  # a thread that is new to torch takes over what was set last
                for done in wait(running, return_when=FIRST_EXCEPTION).done:
                    done.result()
            finally:
                ended.set()
                ready.abort()
    finally:
        torch.set_num_threads(threads)
    return [done.result() for done in running]


_SHORT = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to map segment",
)
_LOST = ("cuda error", "cuda driver error", "cudnn error", "cublas_status", "cudnn_status", "mps backend", "nccl error")


def failure_of(error: BaseException) -> MachineError | None:
    """What it means for a user, where it is the machine's failure; None where it is anything else."""
    if not isinstance(error, MemoryError | RuntimeError | ImportError):
        return None
    text = str(error).lower()
    if isinstance(error, MemoryError) or any(words in text for words in _SHORT):
        smaller = "take a smaller --batch or smaller images, or end what else uses memory"
        if "cuda" in text or "mps" in text:
            return MachineError("the device has not enough memory", f"{smaller}; or use --device cpu")
        return MachineError("not enough memory", smaller)
    if "can't start new thread" in text:
        return MachineError("the system refuses to start another thread", "raise its limits, or set OMP_NUM_THREADS=1")
    if any(words in text for words in _LOST):
        return MachineError(
            f"the device failed: {first_line(error)}",
            "check it with nvidia-smi, then --resume the run or start it again; or use --device cpu",
        )
    return None


@contextmanager
def explained() -> Iterator[None]:
    """Turn a failure of the machine inside the block into a MachineError; let all else through."""
    try:
        yield
    except (MemoryError, RuntimeError, ImportError) as error:
        failure = failure_of(error)
        if failure is None:
            raise
        raise failure from error
