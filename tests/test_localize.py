"""Boxes, centers and silhouettes become the masks they describe, and masks the epsilon matrix of each region."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from latcli.engine import localize
from latcli.engine.localize import (
    PATCH_SHARE,
    REGIONS,
    Rectangle,
    boxes_mask,
    center_mask,
    epsilon_matrix,
    grabcut_mask,
    user_boxes,
)
from latcli.errors import UsageError

EPSILON = 8 / 255

sides_st = st.integers(1, 24)
sizes_st = st.tuples(sides_st, sides_st)
#: Whole numbers, halves and thirds, far outside the image too.
edge_st = st.one_of(st.integers(-40, 40), st.integers(-120, 120).map(lambda n: n / 3), st.floats(-30, 30))
box_st = st.tuples(edge_st, edge_st, edge_st, edge_st)


def _mask(text: str) -> torch.Tensor:
    """mask_1HW from rows of digits."""
    return torch.tensor([[float(digit) for digit in row] for row in text.split()])[None]


# Boxes


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([], "00000 00000 00000"),
        ([(1, 0, 3, 2)], "01100 01100 00000"),  # right and bottom are exclusive
        ([(0, 0, 5, 3)], "11111 11111 11111"),
        ([(1.9, 0.9, 2.1, 1.1)], "01100 01100 00000"),  # every pixel that is touched
        ([(2.0, 1.0, 3.0, 2.0)], "00000 00100 00000"),
        ([(2.4, 1.4, 2.6, 1.6)], "00000 00100 00000"),
        ([(-7, -7, 1, 1)], "10000 00000 00000"),
        ([(4, 2, 99, 99)], "00000 00000 00001"),
        ([(-9, 1, 99, 2)], "00000 11111 00000"),
        ([(0, 0, 1, 1), (4, 2, 5, 3), (0, 0, 2, 1)], "11000 00000 00001"),
        ([(-9, -9, -1, -1)], "00000 00000 00000"),
        ([(-9, 0, -1, 3)], "00000 00000 00000"),
        ([(5, 0, 9, 3)], "00000 00000 00000"),
        ([(0, 3, 5, 9)], "00000 00000 00000"),
    ],
)
def test_a_box_covers_the_pixels_it_touches(boxes: list[Rectangle], expected: str) -> None:
    assert torch.equal(boxes_mask(boxes, (3, 5)), _mask(expected))


@given(st.lists(box_st, max_size=3), sizes_st)
@example([(-20, -20, -5, -5)], (24, 24))
def test_boxes_are_the_union_of_the_pixels_each_touches(boxes: list[Rectangle], size: tuple[int, int]) -> None:
    H, W = size
    expected_1HW = torch.zeros(1, H, W)
    for row in range(H):
        for column in range(W):
            if any(x0 < column + 1 and column < x1 and y0 < row + 1 and row < y1 for x0, y0, x1, y1 in boxes):
                expected_1HW[0, row, column] = 1.0
    mask_1HW = boxes_mask(boxes, size)
    assert mask_1HW.dtype == torch.float32
    assert torch.equal(mask_1HW, expected_1HW)


# A person's boxes


def test_boxes_that_fit_are_taken_as_they_are() -> None:
    boxes = [(0, 0, 50, 30), (0.5, 0.25, 49.75, 29.5)]
    assert user_boxes(boxes, (30, 50)) == boxes


@pytest.mark.parametrize(
    ("box", "message"),
    [
        *(((5, 5, 5, 9), "is empty"), ((5, 5, 9, 5), "is empty"), ((9, 5, 5, 9), "is empty")),
        *(((5, 9, 9, 5), "is empty"), ((math.nan, 0, 1, 1), "is empty")),
        *(((-1, 0, 9, 9), "outside the photo of 50x30"), ((0, -0.5, 9, 9), "outside the photo of 50x30")),
        *(((0, 0, 50.5, 9), "outside the photo"), ((0, 0, 9, 31), "outside"), ((0, 0, math.inf, 9), "outside")),
    ],
)
def test_a_box_that_does_not_fit_is_refused(box: Rectangle, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        user_boxes([(1, 1, 2, 2), box], (30, 50))


# The paper's middle pixels


@pytest.mark.parametrize(
    ("size", "share", "protected"),
    [
        ((28, 28), 0.25, (7, 7)),
        ((28, 28), 0.18, (5, 5)),
        ((28, 28), 0.5, (14, 14)),
        ((28, 28), 2 / 7, (8, 8)),
        ((28, 28), 10 / 28, (10, 10)),
        ((32, 32), 0.75, (24, 24)),
        ((32, 32), 0.25, (8, 8)),
        ((600, 401), 0.5, (300, 201)),
        ((10, 10), 8 / 10, (8, 8)),
        ((3, 3), 0.34, (1, 1)),
        ((3, 3), 0.33, (1, 1)),
        ((1, 1), 0.01, (1, 1)),
        ((2, 1000), 0.001, (1, 1)),
        ((28, 28), 0.0, (0, 0)),  # nothing is protected
    ],
)
def test_the_center_has_known_sides(size: tuple[int, int], share: float, protected: tuple[int, int]) -> None:
    mask_HW = center_mask(size, share)[0]
    assert (int(mask_HW.any(dim=1).sum()), int(mask_HW.any(dim=0).sum())) == protected
    assert mask_HW.sum() == protected[0] * protected[1]


@given(st.tuples(st.integers(1, 300), st.integers(1, 300)), st.floats(0.001, 0.999))
def test_the_center_is_in_the_middle_and_as_long_as_asked(size: tuple[int, int], share: float) -> None:
    mask_HW = center_mask(size, share)[0]
    along = (mask_HW.any(dim=1), mask_HW.any(dim=0))
    assert mask_HW.sum() == along[0].sum() * along[1].sum()
    for side, protected in zip(size, along, strict=True):
        places = protected.nonzero()[:, 0]
        assert side - 1 - int(places[-1]) - int(places[0]) in (0, 1)
        assert abs(len(places) - side * share) <= 0.5 + 1e-6 or (len(places) == 1 and side * share < 0.5)


# Silhouettes


def _ellipse(size: tuple[int, int], center: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
    rows_H1, columns_1W = np.ogrid[: size[0], : size[1]]
    return ((columns_1W - center[0]) / radii[0]) ** 2 + ((rows_H1 - center[1]) / radii[1]) ** 2 <= 1


def _scene(silhouette_HW: np.ndarray) -> np.ndarray:
    """A red thing on a green, waving ground, both noisy."""
    levels_HWC = np.where(silhouette_HW[:, :, None], (190.0, 70.0, 60.0), (60.0, 120.0, 50.0))
    levels_HWC += 15 * np.sin(np.arange(levels_HWC.shape[1]) / 9)[:, None]
    levels_HWC += np.random.default_rng(0).normal(0, 20, levels_HWC.shape)
    return levels_HWC.clip(0, 255).astype(np.uint8)


def _iou(one_HW: np.ndarray, other_HW: np.ndarray) -> float:
    return float((one_HW & other_HW).sum() / (one_HW | other_HW).sum())


def _grabcut(levels_HWC: np.ndarray, *boxes: Rectangle) -> np.ndarray:
    mask_1HW = grabcut_mask(levels_HWC, boxes)
    assert mask_1HW.shape == (1, *levels_HWC.shape[:2])
    assert mask_1HW.dtype == torch.float32
    assert set(mask_1HW.unique().tolist()) <= {0.0, 1.0}
    return mask_1HW[0].numpy() > 0


def test_grabcut_finds_the_silhouette_inside_its_box() -> None:
    silhouette_HW = _ellipse((120, 160), (80, 60), (40, 30))
    assert _iou(_grabcut(_scene(silhouette_HW), (35, 25, 125, 95)), silhouette_HW) > 0.97


def test_grabcut_follows_each_of_several_objects_and_protects_nothing_outside_their_boxes() -> None:
    one_HW, other_HW = _ellipse((120, 200), (50, 60), (30, 30)), _ellipse((120, 200), (150, 50), (25, 35))
    levels_HWC = _scene(one_HW | other_HW)
    assert _iou(_grabcut(levels_HWC, (15, 25, 85, 95), (120, 10, 180, 90)), one_HW | other_HW) > 0.97
    inside_HW = boxes_mask([(40, 20, 90, 100)], (120, 200))[0].numpy() > 0  # cuts the left of the object off
    found_HW = _grabcut(levels_HWC, (40, 20, 90, 100))
    assert not (found_HW & ~inside_HW).any()
    assert (found_HW & inside_HW).sum() > 0.8 * (one_HW & inside_HW).sum()


@pytest.mark.parametrize("size", [(3, 4), (8, 8), (30, 30)])
@pytest.mark.parametrize("flat", [True, False])
def test_a_box_that_leaves_a_sliver_is_still_covered(size: tuple[int, int], flat: bool) -> None:
    H, W = size
    noise_HWC = np.random.default_rng(1).integers(0, 256, (H, W, 3), dtype=np.uint8)
    found_HW = _grabcut(np.full_like(noise_HWC, 9) if flat else noise_HWC, (0, 0, W - 1, H))
    assert not found_HW[:, W - 1].any()
    assert found_HW.sum() >= 0.01 * H * (W - 1)


@pytest.mark.parametrize("box", [(0, 0, 40, 30), (5, 5, 7, 25), (10.4, 3, 12.6, 9), (-9, -9, -1, -1), (50, 5, 60, 20)])
def test_a_box_too_thin_too_large_or_outside_stays_a_box(box: Rectangle) -> None:
    levels_HWC = np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    assert np.array_equal(_grabcut(levels_HWC, box), boxes_mask([box], (30, 40))[0].numpy() > 0)


def test_grabcut_gives_the_same_mask_whatever_ran_before() -> None:
    levels_HWC = _scene(_ellipse((90, 120), (60, 45), (25, 20)))
    cv2.setRNGSeed(4)
    first_HW = _grabcut(levels_HWC, (30, 20, 90, 70))
    cv2.setRNGSeed(5)
    assert np.array_equal(_grabcut(levels_HWC, (30, 20, 90, 70)), first_HW)


@pytest.mark.slow
def test_grabcut_follows_a_silhouette_in_a_large_photo() -> None:
    silhouette_HW = _ellipse((1500, 1000), (500, 800), (300, 450))
    box = (180, 330, 751.5, 1270)  # cuts the right of the object off, between two pixels of the reduced photo
    expected_HW = silhouette_HW & (boxes_mask([box], (1500, 1000))[0].numpy() > 0)
    assert _iou(_grabcut(_scene(silhouette_HW), box), expected_HW) > 0.97


# The epsilon matrix

soft_st = st.one_of(st.sampled_from([0.0, 1.0, 0.5]), st.floats(0, 1, width=32))


@st.composite
def masks(draw: st.DrawFn, batch: int = 1) -> torch.Tensor:
    """mask_B1HW of soft values."""
    shape = (batch, 1, draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    return torch.from_numpy(draw(arrays(np.float32, shape, elements=soft_st)))


def test_each_region_has_its_epsilon_matrix() -> None:
    mask_B1HW = _mask("010 010 000")[None]
    expected = {"background": _mask("101 101 111"), "foreground": _mask("010 010 000"), "all": _mask("111 111 111")}
    for region, where_1HW in expected.items():
        eps_B1HW = epsilon_matrix(mask_B1HW, 0.25, region)  # type: ignore[arg-type]
        assert torch.equal(eps_B1HW, 0.25 * where_1HW[None]), region


@given(masks(batch=2), st.floats(1e-4, 1))
def test_a_soft_mask_shares_epsilon_between_background_and_foreground(mask_B1HW: torch.Tensor, epsilon: float) -> None:
    before_B1HW = mask_B1HW.clone()
    regions: tuple[localize.Region, ...] = ("background", "foreground", "all")
    background, foreground, everywhere = (epsilon_matrix(mask_B1HW, epsilon, region) for region in regions)
    assert torch.equal(background, epsilon_matrix(mask_B1HW, epsilon))  # the default
    assert torch.equal(background, (1 - mask_B1HW) * epsilon)
    assert torch.equal(foreground, mask_B1HW * epsilon)
    assert torch.equal(everywhere, torch.full_like(mask_B1HW, epsilon))
    assert torch.allclose(background + foreground, everywhere, atol=1e-7)
    assert torch.equal(mask_B1HW, before_B1HW)  # the mask is not used up


@given(masks(batch=2), st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_a_random_region_is_the_background_moved(mask_B1HW: torch.Tensor, one: int, other: int) -> None:
    moved = epsilon_matrix(mask_B1HW, EPSILON, "random", [one, other])
    background = epsilon_matrix(mask_B1HW, EPSILON, "background")
    # The same values as often as before: the area is the same to the pixel, soft edges too.
    assert torch.equal(moved.flatten(1).sort(dim=1).values, background.flatten(1).sort(dim=1).values)
    _, _, H, W = mask_B1HW.shape
    rolls = [background[0].roll((rows, columns), (1, 2)) for rows in range(H) for columns in range(W)]
    assert any(torch.equal(moved[0], rolled_1HW) for rolled_1HW in rolls)


@given(masks(batch=2), st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_where_a_random_region_goes_depends_on_its_seed_alone(mask_B1HW: torch.Tensor, one: int, other: int) -> None:
    together = epsilon_matrix(mask_B1HW, EPSILON, "random", [one, other])
    assert torch.equal(together[1:], epsilon_matrix(mask_B1HW[1:], EPSILON, "random", [other]))


def test_random_regions_of_different_seeds_lie_all_over_the_photo() -> None:
    mask_B1HW = center_mask((16, 16), 0.25)[None].expand(400, 1, 16, 16)
    protected_BHW = epsilon_matrix(mask_B1HW, 1.0, "random", range(400))[:, 0] == 0
    share_HW = protected_BHW.float().mean(dim=0)  # 1/16 each, with a spread of .012
    assert share_HW.min() > 0.015
    assert share_HW.max() < 0.125


@pytest.mark.parametrize("epsilon", [0.0, -8 / 255, 1.0001, math.nan, math.inf])
@pytest.mark.parametrize("region", REGIONS)
def test_an_epsilon_outside_0_to_1_is_refused(epsilon: float, region: localize.Region) -> None:
    with pytest.raises(UsageError, match=r"not in \(0, 1\]"):
        epsilon_matrix(torch.zeros(1, 1, 2, 2), epsilon, region, [0])


def test_an_epsilon_of_1_is_allowed() -> None:
    assert torch.equal(epsilon_matrix(torch.zeros(1, 1, 2, 2), 1.0), torch.ones(1, 1, 2, 2))


@given(st.integers(10, 60), st.integers(10, 60), st.floats(0.05, 0.95), st.integers(0, 2**63 - 1))
def test_a_patch_is_a_square_in_the_background(height: int, width: int, share: float, seed: int) -> None:
    mask_B1HW = center_mask((height, width), share)[None]
    patch_HW = epsilon_matrix(mask_B1HW, 1.0, "patch", [seed])[0, 0]
    side = round(math.sqrt(PATCH_SHARE * height * width))
    rows, columns = patch_HW.any(dim=1).nonzero()[:, 0], patch_HW.any(dim=0).nonzero()[:, 0]
    assert (patch_HW * mask_B1HW[0, 0]).max() == 0
    margins = min((height - int(mask_B1HW[0, 0].any(dim=1).sum())) // 2, (width - int(mask_B1HW.any(dim=2).sum())) // 2)
    if margins >= side:
        assert patch_HW.sum() == side * side == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)


def test_patches_of_different_seeds_lie_all_over_the_background() -> None:
    mask_B1HW = center_mask((40, 40), 0.5)[None].expand(1500, 1, 40, 40)
    patches_BHW = epsilon_matrix(mask_B1HW, 1.0, "patch", range(1500))[:, 0]
    assert (patches_BHW.flatten(1).sum(dim=1) == 36).all()
    assert (patches_BHW.amax(dim=0) == 1 - mask_B1HW[0, 0]).float().mean() > 0.99


def test_an_object_everywhere_leaves_a_patch_what_is_no_object() -> None:
    soft_B1HW = torch.full((1, 1, 30, 30), 0.75)
    assert epsilon_matrix(soft_B1HW, 1.0, "patch", [0]).unique().tolist() == [0.0, 0.25]


def test_an_unknown_region_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no region called 'sky'") as raised:
        epsilon_matrix(torch.zeros(1, 1, 2, 2), EPSILON, "sky")  # type: ignore[arg-type]
    assert all(region in raised.value.hint for region in REGIONS)


@pytest.mark.parametrize("region", ["random", "patch"])
@pytest.mark.parametrize("seeds", [None, [], [1], [1, 2, 3]])
def test_a_placed_region_needs_one_seed_for_each_image(region: localize.Region, seeds: list[int] | None) -> None:
    with pytest.raises(ValueError, match="one seed for each image"):
        epsilon_matrix(torch.zeros(2, 1, 4, 4), EPSILON, region, seeds)
