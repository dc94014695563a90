"""From photo to network input: the pipeline everybody uses, the same as matrices, and what of a photo reaches it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from latcli.engine.images import to_unit
from latcli.engine.models.preprocessing import Interpolation, Preprocessing
from latcli.engine.vision import import_torchvision
from latcli.errors import ImageError

SIZES = [(375, 500), (500, 333), (224, 224), (257, 301), (1080, 810), (8, 8), (1, 1), (30, 900), (97, 64)]
PIPELINES = [
    Preprocessing(256, 224, "bicubic"),
    Preprocessing(342, 299, "bilinear"),
    Preprocessing(32, 32, "bilinear"),
]


def photo(height: int, width: int, contrast: float = 90.0, seed: int = 0) -> Image.Image:
    """Smooth shapes with noise on them: neither flat nor white noise. A contrast of 90 reaches black and white."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    waves = np.stack([np.sin(k * rows + 7 * columns) for k in (5, 11, 23)], axis=2)
    levels_HWC = 128 + contrast * waves + random.normal(0, contrast / 6, (height, width, 3))
    return Image.fromarray(levels_HWC.clip(0, 255).astype(np.uint8))


def ordinary(pipeline: Preprocessing, image: Image.Image) -> torch.Tensor:
    """The same in torchvision's words."""
    transforms = import_torchvision().transforms
    mode = {"bilinear": transforms.InterpolationMode.BILINEAR, "bicubic": transforms.InterpolationMode.BICUBIC}
    steps = [
        transforms.Resize(pipeline.resize, mode[pipeline.interpolation]),
        transforms.CenterCrop(pipeline.crop),
        transforms.ToTensor(),
    ]
    return transforms.Compose(steps)(image)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("pipeline", PIPELINES, ids=str)
def test_read_is_the_ordinary_pipeline_to_the_bit(pipeline: Preprocessing, size: tuple[int, int]) -> None:
    image = photo(*size)
    assert torch.equal(pipeline.read(image), ordinary(pipeline, image))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("pipeline", PIPELINES, ids=str)
@pytest.mark.parametrize("contrast", [40.0, 90.0, 1e5])  # the last one is black and white only
def test_the_matrices_do_what_read_does(pipeline: Preprocessing, size: tuple[int, int], contrast: float) -> None:
    image = photo(*size, contrast)
    rows_hH, columns_wW = pipeline.matrices(size)
    found_Chw = (rows_hH @ (to_unit(np.array(image)) @ columns_wW.T).clamp(0, 1)).clamp(0, 1)

    assert found_Chw.shape == (3, pipeline.crop, pipeline.crop)
    difference_Chw = 255 * (found_Chw - pipeline.read(image)).abs()
    assert difference_Chw.max() < 1.2  # PIL rounds after each of its two passes
    assert difference_Chw.mean() < 0.35


def test_the_matrices_of_a_panorama_take_no_more_memory_than_the_photo() -> None:
    """In a process of its own: the largest memory a process ever had cannot be asked for a second time."""
    script = (
        "import resource\n"
        "from latcli.engine.models.preprocessing import Preprocessing\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "rows, columns = Preprocessing(256, 224, 'bicubic').matrices((140, 27000))\n"
        "assert rows.shape == (224, 140) and columns.shape == (224, 27000)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert int(ran.stdout) < 400  # MiB; one number a pixel of the side, squared, would be 2,800


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    resize=st.integers(16, 40),
)
@settings(max_examples=60, deadline=None)
def test_what_is_not_visible_never_reaches_the_network(
    height: int, width: int, interpolation: Interpolation, resize: int
) -> None:
    pipeline = Preprocessing(resize, 16, interpolation)
    before = np.array(photo(height, width))
    rows, columns = pipeline.visible((height, width))
    after = 255 - before
    after[rows, columns] = before[rows, columns]

    assert torch.equal(pipeline.read(Image.fromarray(after)), pipeline.read(Image.fromarray(before)))


@pytest.mark.parametrize("size", [(375, 500), (640, 480), (96, 300)], ids=str)
def test_what_is_visible_is_little_more_than_what_the_matrices_weigh(size: tuple[int, int]) -> None:
    pipeline = Preprocessing(256, 224, "bicubic")
    for matrix, seen in zip(pipeline.matrices(size), pipeline.visible(size), strict=True):
        weighed = (matrix != 0).any(dim=0).nonzero()[:, 0]
        assert seen.start <= weighed[0] <= seen.start + 3
        assert seen.stop - 4 <= weighed[-1] <= seen.stop - 1


def test_each_row_of_a_matrix_is_an_average() -> None:
    for matrix in Preprocessing(256, 224, "bicubic").matrices((333, 500)):
        torch.testing.assert_close(matrix.sum(dim=1), torch.ones(224))


def test_a_crop_larger_than_what_is_cropped_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Preprocessing(224, 256, "bicubic")


def test_a_photo_that_is_all_edge_is_refused() -> None:
    with pytest.raises(ImageError, match="too narrow"):
        Preprocessing(256, 224, "bicubic").read(Image.new("RGB", (1000, 1)))
