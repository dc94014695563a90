"""torchvision can be imported beside any torch, and its non-maximum suppression does what it says."""

import subprocess
import sys

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from latcli.engine.vision import greedy_nms, import_torchvision

#: Whole numbers and quarters: sums and products are exact, so that ties and thresholds are hit, not missed by rounding.
_corner = st.integers(0, 12)
_side = st.integers(0, 12)
_box = st.tuples(_corner, _corner, _side, _side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
_scene = st.lists(st.tuples(_box, st.integers(0, 4)), max_size=24)
_threshold = st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 0.75, 1.0])


def _reference(boxes, scores, threshold):
    """The definition, box by box in Python floats."""
    kept = []
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


@given(_scene, _threshold)
@example([((0, 0, 4, 4), 1), ((0, 0, 4, 2), 0)], 0.5)  # an overlap of exactly the threshold stays
@example([((0, 0, 4, 4), 1), ((0, 0, 4, 4), 1), ((0, 0, 4, 4), 1)], 0.5)  # of equals the first stays
@example([((3, 3, 3, 3), 1), ((3, 3, 3, 3), 0)], 0.0)  # boxes without area overlap nothing
def test_greedy_nms_is_its_definition(scene, threshold):
    boxes, scores = [box for box, _ in scene], [score for _, score in scene]
    boxes_N4, scores_N = (torch.tensor(values, dtype=torch.float64) for values in (boxes, scores))
    kept = greedy_nms(boxes_N4.reshape(-1, 4), scores_N, threshold)
    assert kept.dtype == torch.int64
    assert kept.tolist() == _reference(boxes, scores, threshold)


@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.floats(0, 1))
def test_torchvisions_operator_and_the_stand_in_agree(seed, count, threshold):
    nms = import_torchvision().ops.nms
    generator = torch.Generator().manual_seed(seed)
    corners_N2 = torch.rand(count, 2, generator=generator) * 60
    boxes_N4 = torch.cat([corners_N2, corners_N2 + torch.rand(count, 2, generator=generator) * 60], dim=1)
    scores_N = torch.randint(0, 20, (count,), generator=generator).float()
    assert nms(boxes_N4, scores_N, threshold).tolist() == greedy_nms(boxes_N4, scores_N, threshold).tolist()


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
}


@pytest.mark.slow
@pytest.mark.parametrize("what", PROGRAMS)
def test_a_fresh_process_can(what):
    done = subprocess.run([sys.executable, "-c", PROGRAMS[what]], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
