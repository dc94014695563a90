"""Makes torchvision importable beside a torch that its C++ operators were not built for.

The package index serves a torchvision that is built against CUDA. Beside a CPU-only torch its library does not load,
and `import torchvision` ends with `operator torchvision::nms does not exist`. Where that is so, the two operators
that the import needs are defined here in plain PyTorch. Where the library loads, nothing is changed.

torchvision and timm import torch's compiler, a second and more, for a function of RoI alignment and for decorators of
one network. Here it is imported only when one of them is called.

Everything that imports torchvision or ultralytics calls `import_torchvision` first, and timm is had by `import_timm`.

Legend: N boxes; 4 is left, top, right, bottom.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any, Literal

import torch
from torch._compile import _disable_dynamo

from latcli.errors import LatcliError

#: Boxes whose overlaps are computed at once: bounds the memory at a few times this many rows of N.
_BLOCK = 256

_lock = threading.RLock()
#: Holds the definitions: they vanish with the object.
_library: torch.library.Library | None = None


def import_torchvision() -> ModuleType:
    """The torchvision package, with its own operators or the stand-in ones. Cheap to call again, from any thread.

    Raises LatcliError where torchvision is not installed.
    """
    with _lock:
        if not _operators_exist() and not _load_native_operators():
            _define_stand_ins()
        with _without_compiler():
            torchvision = importlib.import_module("torchvision")
        if not _has_native_operators():
            # Only in boxes.py, which calls `nms`: the RoI operators must go on saying that they are missing.
            vars(importlib.import_module("torchvision.ops.boxes"))["_assert_has_ops"] = _skip_check
        return torchvision


_COMPILER = "torch._dynamo.utils"


class _Compiler(ModuleType):
    """Stands for the module of torch's compiler that torchvision imports, and imports it when it is used.

    Whoever else imports the compiler meanwhile, on another thread, gets it.
    """

    def is_compile_supported(self, device_type: Any) -> Any:
        """What the real function returns."""
        return self._real().is_compile_supported(device_type)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._real(), name)

    def _real(self) -> Any:
        if sys.modules.get(_COMPILER) is self:
            del sys.modules[_COMPILER]
        return importlib.import_module(_COMPILER)


@contextmanager
def _without_compiler() -> Iterator[None]:
    """While the block runs, imports that want torch's compiler get what stands for it, unless it is there already."""
    if "torch._dynamo" in sys.modules:
        yield
        return
    stand_in = sys.modules[_COMPILER] = _Compiler(_COMPILER)
    disable = torch.compiler.disable
    # What torch decorates its own functions with: the compiler is asked when the function is called.
    torch.compiler.disable = lambda fn=None, recursive=True, *, reason=None: _disable_dynamo(fn, recursive)
    try:
        yield
    finally:
        torch.compiler.disable = disable
        if sys.modules.get(_COMPILER) is stand_in:
            del sys.modules[_COMPILER]


def import_timm() -> Any:
    """The package timm. Raises LatcliError where torchvision is not installed."""
    import_torchvision()
    with _lock, _without_compiler():
        return importlib.import_module("timm")


def operators() -> Literal["native", "stand-in"]:
    """Whether torchvision runs on its own C++ operators or on those defined here."""
    import_torchvision()
    return "native" if _has_native_operators() else "stand-in"


def greedy_nms(boxes_N4: torch.Tensor, scores_N: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Non-maximum suppression: int64 indices of the kept boxes by falling score; equal scores keep their order.

    A box goes when a kept one of higher score overlaps it with an intersection over union above `iou_threshold`.
    Gives what torchvision's CPU operator gives, in memory that grows with N, not with its square.
    """
    _check_nms_arguments(boxes_N4, scores_N)
    order_N = scores_N.sort(dim=0, descending=True, stable=True).indices
    kept: list[torch.Tensor] = []
    while order_N.numel():
        block, rest = order_N[:_BLOCK], order_N[_BLOCK:]
        block = block[_survivors(_overlaps(boxes_N4[block], boxes_N4[block], iou_threshold))]
        kept.append(block)
        order_N = rest[~_overlaps(boxes_N4[block], boxes_N4[rest], iou_threshold).any(dim=0)]
    return torch.cat(kept) if kept else order_N


def _survivors(overlaps_NN: torch.Tensor) -> torch.Tensor:
    """The greedy pass over boxes in order: which of them no earlier survivor overlaps."""
    rows = overlaps_NN.cpu().numpy()
    alive_N = torch.ones(len(rows), dtype=torch.bool)
    alive = alive_N.numpy()  # the same memory
    for index, row in enumerate(rows):
        if alive[index]:
            alive[index + 1 :] &= ~row[index + 1 :]
    return alive_N.to(overlaps_NN.device)


def _overlaps(one_K4: torch.Tensor, other_N4: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    top_left_KN2 = torch.maximum(one_K4[:, None, :2], other_N4[None, :, :2])
    bottom_right_KN2 = torch.minimum(one_K4[:, None, 2:], other_N4[None, :, 2:])
    intersection_KN = (bottom_right_KN2 - top_left_KN2).clamp_(min=0).prod(dim=2)
    union_KN = _areas(one_K4)[:, None] + _areas(other_N4)[None, :] - intersection_KN
    # In double, because the operator compares with a double: a float that was rounded up to the threshold is above it.
    return (intersection_KN / union_KN).double() > iou_threshold


def _areas(boxes_N4: torch.Tensor) -> torch.Tensor:
    return (boxes_N4[:, 2] - boxes_N4[:, 0]) * (boxes_N4[:, 3] - boxes_N4[:, 1])


def _quantized_nms(boxes_N4: torch.Tensor, scores_N: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    # Scale and offset of a quantization cancel in an intersection over union, so the integers serve as coordinates.
    return greedy_nms(boxes_N4.float(), scores_N, iou_threshold)


def _check_nms_arguments(boxes_N4: torch.Tensor, scores_N: torch.Tensor) -> None:
    if boxes_N4.dim() != 2 or boxes_N4.size(1) != 4:
        raise ValueError(f"boxes need the shape (N, 4), got {tuple(boxes_N4.shape)}")
    if scores_N.dim() != 1 or scores_N.size(0) != boxes_N4.size(0):
        raise ValueError(f"scores need the shape ({boxes_N4.size(0)},), got {tuple(scores_N.shape)}")


def _operators_exist() -> bool:
    return hasattr(torch.ops.torchvision, "nms")


def _has_native_operators() -> bool:
    return bool(importlib.import_module("torchvision.extension")._has_ops())


def _load_native_operators() -> bool:
    package = importlib.util.find_spec("torchvision")
    if package is None or package.submodule_search_locations is None:
        raise LatcliError("torchvision is not installed", "install latcli again: pip install latcli")
    library = PathFinder.find_spec("_C", list(package.submodule_search_locations))
    if library is None or library.origin is None:
        return False
    try:
        torch.ops.load_library(library.origin)  # type: ignore[no-untyped-call]
    except OSError:  # built for another torch
        return False
    return True


def _define_stand_ins() -> None:
    global _library
    _library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema, function in _STAND_INS.items():
        name = _library.define(schema)  # type: ignore[no-untyped-call]
        _library.impl(name.rpartition("::")[2], function, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]


def _refuse_rotated_boxes(boxes1_N5: torch.Tensor, boxes2_M5: torch.Tensor) -> torch.Tensor:
    importlib.import_module("torchvision.extension")._assert_has_ops()
    raise NotImplementedError("overlaps of rotated boxes need torchvision's C++ operators")


#: The operators behind the check that is skipped in `torchvision.ops.boxes`. Rotated boxes have no stand-in, but who
#: needs them gets an error that names what is missing.
_STAND_INS: dict[str, Callable[..., torch.Tensor]] = {
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor": greedy_nms,
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor": _quantized_nms,
    "box_iou_rotated(Tensor boxes1, Tensor boxes2) -> Tensor": _refuse_rotated_boxes,
}


def _skip_check() -> None:
    """Takes the place of torchvision's check for its library in `boxes.py`: its operators are defined here."""
