"""Boxes, centers and silhouettes become the masks they describe, and masks the epsilon matrix of each region."""

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.mask_agreement import intersection_over_union
from latcli.engine.localize import (
    PATCH_SHARE,
    REGIONS,
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


@given(st.lists(box_st, max_size=3), sizes_st)
@example([(-20, -20, -5, -5)], (24, 24))
def test_boxes_are_the_union_of_the_pixels_each_touches(boxes, size):
    H, W = size
    expected_1HW = torch.zeros(1, H, W)
    for row in range(H):
        for column in range(W):
            if any(x0 < column + 1 and column < x1 and y0 < row + 1 and row < y1 for x0, y0, x1, y1 in boxes):
                expected_1HW[0, row, column] = 1.0
    mask_1HW = boxes_mask(boxes, size)
    assert mask_1HW.dtype == torch.float32
    assert torch.equal(mask_1HW, expected_1HW)


NO_BOXES = {(5, 5, 5, 9): "is empty", (5, 5, 9, 5): "is empty", (9, 5, 5, 9): "is empty", (5, 9, 9, 5): "is empty"}
NO_BOXES |= {(math.nan, 0, 1, 1): "is empty", (-1, 0, 9, 9): "outside the photo of 50x30", (0, -0.5, 9, 9): "outside"}
NO_BOXES |= {(0, 0, 50.5, 9): "outside the photo", (0, 0, 9, 31): "outside", (0, 0, math.inf, 9): "outside"}


def test_boxes_that_fit_are_taken_as_they_are_and_others_refused():
    boxes = [(0, 0, 50, 30), (0.5, 0.25, 49.75, 29.5)]
    assert user_boxes(boxes, (30, 50)) == boxes
    for box, message in NO_BOXES.items():
        with pytest.raises(UsageError, match=message):
            user_boxes([(1, 1, 2, 2), box], (30, 50))


KNOWN = {((28, 28), 0.25): (7, 7), ((28, 28), 0.18): (5, 5), ((28, 28), 2 / 7): (8, 8), ((28, 28), 10 / 28): (10, 10)}
KNOWN |= {((32, 32), 0.75): (24, 24), ((600, 401), 0.5): (300, 201), ((3, 3), 0.33): (1, 1), ((1, 1), 0.01): (1, 1)}
KNOWN |= {((2, 1000), 0.001): (1, 1), ((28, 28), 0.0): (0, 0)}  # the last protects nothing


def test_the_center_has_known_sides():
    for (size, share), protected in KNOWN.items():
        mask_HW = center_mask(size, share)[0]
        assert (int(mask_HW.any(dim=1).sum()), int(mask_HW.any(dim=0).sum())) == protected
        assert mask_HW.sum() == protected[0] * protected[1]
        for side, along in zip(size, (mask_HW.any(dim=1), mask_HW.any(dim=0)), strict=True):
            places = along.nonzero()[:, 0].tolist() or [(side - 1) // 2 + 1, (side - 1) // 2]
            assert side - 1 - places[-1] - places[0] in (0, 1)  # in the middle, the first margin the smaller


def _ellipse(size, center, radii):
    rows_H1, columns_1W = np.ogrid[: size[0], : size[1]]
    return ((columns_1W - center[0]) / radii[0]) ** 2 + ((rows_H1 - center[1]) / radii[1]) ** 2 <= 1


def _scene(silhouette_HW):
    """A red thing on a green, waving ground, both noisy."""
    levels_HWC = np.where(silhouette_HW[:, :, None], (190.0, 70.0, 60.0), (60.0, 120.0, 50.0))
    levels_HWC += 15 * np.sin(np.arange(levels_HWC.shape[1]) / 9)[:, None]
    levels_HWC += np.random.default_rng(0).normal(0, 20, levels_HWC.shape)
    return levels_HWC.clip(0, 255).astype(np.uint8)


def _grabcut(levels_HWC, *boxes):
    mask_1HW = grabcut_mask(levels_HWC, boxes)
    assert mask_1HW.shape == (1, *levels_HWC.shape[:2])
    assert mask_1HW.dtype == torch.float32
    assert set(mask_1HW.unique().tolist()) <= {0.0, 1.0}
    return mask_1HW[0].numpy() > 0


def test_grabcut_finds_silhouettes_inside_their_boxes_and_protects_nothing_outside():
    one_HW, other_HW = _ellipse((120, 200), (50, 60), (30, 30)), _ellipse((120, 200), (150, 50), (25, 35))
    found_HW = _grabcut(_scene(one_HW | other_HW), (15, 25, 85, 95), (120, 10, 180, 90))
    assert intersection_over_union(found_HW, one_HW | other_HW) > 0.97
    box = (40, 20, 100, 100)  # cuts the left of an object off
    found_HW, inside_HW = _grabcut(_scene(one_HW), box), boxes_mask([box], (120, 200))[0].numpy() > 0
    assert not (found_HW & ~inside_HW).any()
    assert (found_HW & inside_HW).sum() > 0.8 * (one_HW & inside_HW).sum()


def test_a_box_too_thin_too_large_or_outside_stays_a_box():
    for box in [(0, 0, 40, 30), (5, 5, 7, 25), (10.4, 3, 12.6, 9), (-9, -9, -1, -1), (50, 5, 60, 20)]:
        levels_HWC = np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        assert np.array_equal(_grabcut(levels_HWC, box), boxes_mask([box], (30, 40))[0].numpy() > 0)


def test_grabcut_gives_the_same_mask_whatever_ran_before():
    levels_HWC = cv2.GaussianBlur(np.random.default_rng(3).normal(128, 300, (90, 120, 3)), (0, 0), 2.0)
    levels_HWC = _scene(_ellipse((90, 120), (60, 45), (25, 20))) // 2 + levels_HWC.clip(0, 255).astype(np.uint8) // 2
    cv2.setRNGSeed(4)
    first_HW = _grabcut(levels_HWC, (30, 20, 90, 70))
    cv2.setRNGSeed(5)
    assert np.array_equal(_grabcut(levels_HWC, (30, 20, 90, 70)), first_HW)


soft_st = st.one_of(st.sampled_from([0.0, 1.0, 0.5]), st.floats(0, 1, width=32))


@st.composite
def masks(draw, batch=1):
    """mask_B1HW of soft values."""
    shape = (batch, 1, draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    return torch.from_numpy(draw(arrays(np.float32, shape, elements=soft_st)))


@given(masks(batch=2), st.floats(1e-4, 1))
@example(torch.zeros(1, 1, 2, 2), 1.0)
def test_a_soft_mask_shares_epsilon_between_background_and_foreground(mask_B1HW, epsilon):
    before_B1HW = mask_B1HW.clone()
    regions = ("background", "foreground", "all")
    background, foreground, everywhere = (epsilon_matrix(mask_B1HW, epsilon, region) for region in regions)
    assert torch.equal(background, epsilon_matrix(mask_B1HW, epsilon))  # the default
    assert torch.equal(background, (1 - mask_B1HW) * epsilon)
    assert torch.equal(foreground, mask_B1HW * epsilon)
    assert torch.equal(everywhere, torch.full_like(mask_B1HW, epsilon))
    assert torch.allclose(background + foreground, everywhere, atol=1e-7)
    assert torch.equal(mask_B1HW, before_B1HW)  # the mask is not used up


@given(masks(batch=2), st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_a_random_region_is_the_background_moved_by_its_seed_alone(mask_B1HW, one, other):
    moved = epsilon_matrix(mask_B1HW, EPSILON, "random", [one, other])
    assert torch.equal(moved[1:], epsilon_matrix(mask_B1HW[1:], EPSILON, "random", [other]))
    # One marked pixel shows the offset, whatever else the mask holds.
    marked = torch.ones_like(mask_B1HW)
    marked[:, :, 0, 0] = 0.0
    row, column = epsilon_matrix(marked, 1.0, "random", [one, other])[0, 0].nonzero()[0].tolist()
    background = epsilon_matrix(mask_B1HW, EPSILON, "background")
    assert torch.equal(moved[0], background[0].roll((row, column), (1, 2)))  # the area is the same to the pixel


@given(st.integers(10, 60), st.integers(10, 60), st.floats(0.05, 0.95), st.integers(0, 2**63 - 1))
def test_a_patch_is_a_square_in_the_background(height, width, share, seed):
    mask_B1HW = center_mask((height, width), share)[None]
    patch_HW = epsilon_matrix(mask_B1HW, 1.0, "patch", [seed])[0, 0]
    side = round(math.sqrt(PATCH_SHARE * height * width))
    rows, columns = patch_HW.any(dim=1).nonzero()[:, 0], patch_HW.any(dim=0).nonzero()[:, 0]
    assert (patch_HW * mask_B1HW[0, 0]).max() == 0
    margins = min((height - int(mask_B1HW[0, 0].any(dim=1).sum())) // 2, (width - int(mask_B1HW.any(dim=2).sum())) // 2)
    if margins >= side:
        assert patch_HW.sum() == side * side == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)


def test_patches_of_different_seeds_lie_all_over_the_background():
    mask_B1HW = center_mask((40, 40), 0.5)[None].expand(1500, 1, 40, 40)
    patches_BHW = epsilon_matrix(mask_B1HW, 1.0, "patch", range(1500))[:, 0]
    assert (patches_BHW.flatten(1).sum(dim=1) == 36).all()
    assert (patches_BHW.amax(dim=0) == 1 - mask_B1HW[0, 0]).float().mean() > 0.99


def test_what_cannot_be_meant_is_refused():
    mask_B1HW = torch.zeros(2, 1, 2, 2)
    for region in REGIONS:
        for epsilon in (0.0, -8 / 255, 1.0001, math.nan, math.inf):
            with pytest.raises(UsageError, match=r"not in \(0, 1\]"):
                epsilon_matrix(mask_B1HW, epsilon, region, [0, 1])
    with pytest.raises(UsageError, match="no region called 'sky'") as raised:
        epsilon_matrix(mask_B1HW, EPSILON, "sky")
    assert all(region in raised.value.hint for region in REGIONS)
    for region in ("random", "patch"):
        for seeds in (None, [], [1], [1, 2, 3]):
            with pytest.raises(ValueError, match="one seed for each image"):
                epsilon_matrix(mask_B1HW, EPSILON, region, seeds)
