"""torchvision can be imported beside any torch, and its non-maximum suppression does what it says."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from latcli.engine import vision
from latcli.engine.vision import greedy_nms, import_torchvision, operators

#: Whole numbers and quarters: sums and products are exact, so that ties and thresholds are hit, not missed by rounding.
_corner = st.integers(0, 12)
_side = st.integers(0, 12)
_box = st.tuples(_corner, _corner, _side, _side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
_scene = st.lists(st.tuples(_box, st.integers(0, 4)), max_size=24)
_threshold = st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 0.75, 1.0])


def _reference(boxes: list[tuple[float, ...]], scores: list[float], threshold: float) -> list[int]:
    """The definition, box by box in Python floats."""
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda i: -scores[i]):  # sorted is stable
        x0, y0, x1, y1 = boxes[index]
        for other in kept:
            u0, v0, u1, v1 = boxes[other]
            shared = max(min(x1, u1) - max(x0, u0), 0) * max(min(y1, v1) - max(y0, v0), 0)
            union = (x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - shared
            if union and shared / union > threshold:
                break
        else:
            kept.append(index)
    return kept


def _tensors(scene: list[tuple[tuple[float, ...], float]]) -> tuple[torch.Tensor, torch.Tensor]:
    boxes_N4 = torch.tensor([box for box, _ in scene], dtype=torch.float64).reshape(-1, 4)
    return boxes_N4, torch.tensor([score for _, score in scene], dtype=torch.float64)


@given(_scene, _threshold)
@example([((0, 0, 4, 4), 1), ((0, 0, 4, 2), 0)], 0.5)  # an overlap of exactly the threshold stays
@example([((0, 0, 4, 4), 1), ((0, 0, 4, 4), 1), ((0, 0, 4, 4), 1)], 0.5)  # of equals the first stays
@example([((3, 3, 3, 3), 1), ((3, 3, 3, 3), 0)], 0.0)  # boxes without area overlap nothing
def test_greedy_nms_is_its_definition(scene: list[tuple[tuple[int, ...], int]], threshold: float) -> None:
    boxes_N4, scores_N = _tensors(scene)
    kept = greedy_nms(boxes_N4, scores_N, threshold)
    assert kept.dtype == torch.int64
    assert kept.tolist() == _reference([b for b, _ in scene], [s for _, s in scene], threshold)


@pytest.mark.parametrize("count", [vision._BLOCK - 1, vision._BLOCK, vision._BLOCK + 1, 3 * vision._BLOCK])
def test_blocks_of_boxes_change_nothing(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    corners_N2 = torch.randint(0, 60, (count, 2), generator=generator).double()
    boxes_N4 = torch.cat([corners_N2, corners_N2 + torch.randint(1, 30, (count, 2), generator=generator)], dim=1)
    scores_N = torch.randint(0, 50, (count,), generator=generator).double()
    kept = greedy_nms(boxes_N4, scores_N, 0.5).tolist()
    assert kept == _reference(boxes_N4.tolist(), scores_N.tolist(), 0.5)
    assert 1 < len(kept) < count


@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.floats(0, 1))
def test_torchvisions_operator_and_the_stand_in_agree(seed: int, count: int, threshold: float) -> None:
    nms = import_torchvision().ops.nms
    generator = torch.Generator().manual_seed(seed)
    corners_N2 = torch.rand(count, 2, generator=generator) * 60
    boxes_N4 = torch.cat([corners_N2, corners_N2 + torch.rand(count, 2, generator=generator) * 60], dim=1)
    scores_N = torch.randint(0, 20, (count,), generator=generator).float()
    assert nms(boxes_N4, scores_N, threshold).tolist() == greedy_nms(boxes_N4, scores_N, threshold).tolist()


def test_boxes_of_different_classes_do_not_suppress_each_other() -> None:
    batched_nms = import_torchvision().ops.batched_nms
    boxes_N4 = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 9, 8]])
    kept = batched_nms(boxes_N4, torch.tensor([0.5, 0.9, 0.1]), torch.tensor([0, 1, 1]), 0.5)
    assert kept.tolist() == [1, 0]


@pytest.mark.filterwarnings("ignore:.*quantize")
def test_quantized_boxes_are_suppressed_like_others() -> None:
    nms = import_torchvision().ops.nms
    boxes_N4 = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
    scores_N = torch.tensor([0.5, 0.9, 0.1])
    quantized = (torch.quantize_per_tensor(t, 0.1, 0, torch.quint8) for t in (boxes_N4 / 2, scores_N))
    assert nms(*quantized, 0.5).tolist() == nms(boxes_N4, scores_N, 0.5).tolist() == [1, 2]


@pytest.mark.parametrize("shapes", [((3, 5), (3,)), ((4,), (1,)), ((3, 4), (2,)), ((3, 4), (3, 1))])
def test_nms_refuses_shapes_that_are_no_boxes_and_scores(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="need the shape"):
        greedy_nms(torch.zeros(shapes[0]), torch.zeros(shapes[1]), 0.5)


def test_operators_without_a_stand_in_work_or_say_that_they_are_missing() -> None:
    ops = import_torchvision().ops
    calls = [
        lambda: ops.roi_pool(torch.ones(1, 3, 8, 8), torch.tensor([[0.0, 0, 0, 4, 4]]), (2, 2)),
        lambda: ops.ps_roi_pool(torch.ones(1, 4, 8, 8), torch.tensor([[0.0, 0, 0, 4, 4]]), (2, 2)),
        lambda: ops.box_iou(torch.ones(2, 5), torch.ones(3, 5), fmt="cxcywhr"),
    ]
    for call in calls:
        if operators() == "native":
            assert call().isfinite().all()
        else:
            with pytest.raises(RuntimeError, match=r"custom C\+\+ ops"):
                call()


#: What a fresh process can do, by a program that fails where it cannot.
PROGRAMS = {
    "import all that needs torchvision": """
from latcli.engine.vision import import_torchvision, operators
module = import_torchvision()
import timm, torchvision, ultralytics, ultralytics.nn.tasks
assert module is torchvision is import_torchvision()
assert operators() in ("native", "stand-in")
""",
    "make good a failed import": """
try:
    import torchvision
    first = "native"
except RuntimeError:
    first = "stand-in"
from latcli.engine.vision import import_torchvision, operators
import_torchvision()
assert operators() == first
""",
    "import on many threads": """
from concurrent.futures import ThreadPoolExecutor
import threading
from latcli.engine.vision import import_torchvision
start = threading.Barrier(8)
def work(_):
    start.wait()
    return import_torchvision()
with ThreadPoolExecutor(8) as pool:
    assert len(set(pool.map(work, range(8)))) == 1
""",
    "use torch's compiler, imported only then": """
import sys, torch
from latcli.engine.vision import import_timm, import_torchvision
ops, timm = import_torchvision().ops, import_timm()
assert not [name for name in sys.modules if name.startswith("torch._dynamo")]
assert torch.compiler.disable.__module__ == "torch.compiler"
compiled = torch.compile(timm.create_model("naflexvit_base_patch16_gap", depth=1).eval(), backend="eager")
assert compiled(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)
from torch._dynamo.utils import counters
assert ops.roi_align(torch.zeros(1, 3, 8, 8), torch.tensor([[0.0, 0, 0, 4, 4]]), (2, 2)).shape == (1, 3, 2, 2)
""",
    "get the real compiler while torchvision is imported": """
import sys, torch
from latcli.engine import vision
with vision._without_compiler():
    from torch._dynamo.utils import counters, is_compile_supported
    import torch._dynamo.utils
assert type(counters).__name__ == "defaultdict"
assert is_compile_supported("cpu") == torch._dynamo.utils.is_compile_supported("cpu")
assert sys.modules["torch._dynamo.utils"] is torch._dynamo.utils and torch._dynamo.utils.__file__
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("what", PROGRAMS)
def test_a_fresh_process_can(what: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAMS[what]], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_where_the_library_loads_nothing_is_defined_or_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    torchvision = import_torchvision()
    boxes = torchvision.ops.boxes
    monkeypatch.setattr(boxes, "_assert_has_ops", check := object())
    monkeypatch.setattr(torchvision.extension, "_has_ops", lambda: True)
    monkeypatch.setattr(vision, "_operators_exist", lambda: False)
    monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    monkeypatch.setattr(vision, "_define_stand_ins", lambda: pytest.fail("defined"))
    assert import_torchvision() is torchvision
    assert boxes._assert_has_ops is check
    assert operators() == "native"
