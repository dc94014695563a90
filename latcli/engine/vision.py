"""Makes torchvision importable beside a torch that its C++ operators were not built for, and without torch's compiler.

The package index serves a torchvision that is built against CUDA. Beside a CPU-only torch its library does not load,
and `import torchvision` ends with `operator torchvision::nms does not exist`. Where that is so, non-maximum suppression
is defined here in plain PyTorch. Where the library loads, nothing is changed.

torchvision and timm import torch's compiler, two seconds, for a function of RoI alignment and for decorators of one
network. Here it is imported only when one of them is called.

Everything that imports torchvision or ultralytics calls `import_torchvision` first, and timm is had by `import_timm`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

import torch
from torch._compile import _disable_dynamo

from latcli.errors import LatcliError

_COMPILER = "torch._dynamo.utils"

_lock = threading.RLock()
#: Holds the definitions: they vanish with the object.
_library: torch.library.Library | None = None


def import_torchvision() -> ModuleType:
    """The torchvision package, with its own operators or the stand-in. Cheap to call again, from any thread.

    Raises LatcliError where torchvision is not installed.
    """
    global _library
    with _lock, _without_compiler():
        try:
            return import_module("torchvision")
        except ModuleNotFoundError as error:
            raise LatcliError(f"torchvision cannot be imported: {error}", "install latcli again") from error
        except RuntimeError:  # operator torchvision::nms does not exist
            # Those that the import asks for; of all but `nms` only the names.
            _library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
            for operator in ("nms", "qnms"):
                _library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
            _library.define("box_iou_rotated(Tensor boxes1, Tensor boxes2) -> Tensor")  # type: ignore[no-untyped-call]
            _library.impl("nms", greedy_nms, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
            torchvision = import_module("torchvision")
            # Only in boxes.py, which calls `nms`: the RoI operators must go on saying that they are missing.
            vars(import_module("torchvision.ops.boxes"))["_assert_has_ops"] = lambda: None
            return torchvision


def import_timm() -> Any:
    """The package timm. Raises LatcliError where torchvision is not installed."""
    import_torchvision()
    with _lock, _without_compiler():
        return import_module("timm")


def operators() -> Literal["native", "stand-in"]:
    """Whether torchvision runs on its own C++ operators or on the one defined here."""
    import_torchvision()
    return "native" if import_module("torchvision.extension")._has_ops() else "stand-in"


def greedy_nms(boxes_N4: torch.Tensor, scores_N: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Non-maximum suppression: int64 indices of the kept boxes by falling score; equal scores keep their order.

    A box (left, top, right, bottom) goes when a kept one of higher score overlaps it with an intersection over union
    above `iou_threshold`. Gives what torchvision's operator gives.
    """
    box_iou = import_module("torchvision.ops.boxes").box_iou
    order_N = scores_N.sort(dim=0, descending=True, stable=True).indices
    kept = [order_N[:0]]
    while len(order_N):
        best, rest = order_N[:1], order_N[1:]
        kept.append(best)
        # In double, as the operator compares: a float that was rounded up to the threshold is above it.
        order_N = rest[~(box_iou(boxes_N4[best], boxes_N4[rest])[0].double() > iou_threshold)]
    return torch.cat(kept)


@contextmanager
def _without_compiler() -> Iterator[None]:
    """While the block runs, imports that want torch's compiler get what stands for it, unless it is there already."""
    if "torch._dynamo" in sys.modules or {"torchvision", "timm"} <= sys.modules.keys():
        yield
        return
    stand_in: Any = ModuleType(_COMPILER)
    stand_in.is_compile_supported = lambda device: import_module(_COMPILER).is_compile_supported(device)
    disable = torch.compiler.disable
    sys.modules[_COMPILER] = stand_in
    # What torch decorates its own functions with: the compiler is asked when the function is called.
    torch.compiler.disable = lambda fn=None, recursive=True, *, reason=None: _disable_dynamo(fn, recursive)
    try:
        yield
    finally:
        torch.compiler.disable = disable
        del sys.modules[_COMPILER]
