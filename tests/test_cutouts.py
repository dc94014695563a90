"""Photos taken apart along the object: what is left of the object, what of the background, and what fills the hole."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from latcli.engine.evaluation.reliance import bounding_box, largest_strip, mixed, only_bg_b, only_bg_t, only_fg

#: A colour that no background of these tests has.
MAGENTA = (255, 0, 255)


def photo(height: int, width: int, object_HW: np.ndarray, seed: int = 0) -> np.ndarray:
    """Random dull levels with a magenta object."""
    levels_HWC = np.random.default_rng(seed).integers(10, 200, (height, width, 3), dtype=np.uint8)
    levels_HWC[object_HW] = MAGENTA
    return levels_HWC


@st.composite
def objects(draw: st.DrawFn) -> np.ndarray:
    """Object masks of any shape, with at least one pixel, whose box leaves some background."""
    height, width = draw(st.integers(2, 12)), draw(st.integers(2, 12))
    bits = draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    object_HW = np.array(bits).reshape(height, width)
    if draw(st.booleans()):
        object_HW[:, draw(st.integers(0, width - 1)) :] = False
    else:
        object_HW[: draw(st.integers(1, height))] = False
    if not object_HW.any() or largest_strip(object_HW) is None:
        object_HW[:] = False
        object_HW[0, 0] = True
    return object_HW


def test_a_small_photo_by_hand():
    # Columns 0 and 1 are the largest strip; the box at rows 1 to 2, columns 2 to 3 repeats it.
    levels_HW = np.arange(1, 21, dtype=np.uint8).reshape(4, 5)
    levels_HWC = np.repeat(levels_HW[:, :, None], 3, axis=2)
    object_HW = np.zeros((4, 5), dtype=bool)
    object_HW[1, 2] = object_HW[2, 3] = True
    assert bounding_box(object_HW) == (slice(1, 3), slice(2, 4))
    assert largest_strip(object_HW) == (slice(0, 4), slice(0, 2))
    assert only_fg(levels_HWC, object_HW)[:, :, 0].tolist() == [[0] * 5, [0, 0, 8, 0, 0], [0, 0, 0, 14, 0], [0] * 5]
    black = [[1, 2, 3, 4, 5], [6, 7, 0, 0, 10], [11, 12, 0, 0, 15], [16, 17, 18, 19, 20]]
    assert only_bg_b(levels_HWC, object_HW)[:, :, 1].tolist() == black
    tiled = [[1, 2, 3, 4, 5], [6, 7, 6, 7, 10], [11, 12, 11, 12, 15], [16, 17, 18, 19, 20]]
    assert only_bg_t(levels_HWC, object_HW)[:, :, 2].tolist() == tiled


def test_the_largest_strip_lies_on_the_side_with_most_room():
    for box, strip in [
        ((slice(6, 9), slice(1, 9)), (slice(0, 6), slice(0, 10))),
        ((slice(1, 4), slice(1, 9)), (slice(4, 10), slice(0, 10))),
        ((slice(1, 9), slice(6, 9)), (slice(0, 10), slice(0, 6))),
        ((slice(1, 9), slice(1, 4)), (slice(0, 10), slice(4, 10))),
        ((slice(0, 10), slice(0, 10)), None),
    ]:
        object_HW = np.zeros((10, 10), dtype=bool)
        object_HW[box] = True
        assert largest_strip(object_HW) == strip


@given(objects())
def test_filling_keeps_the_background_and_takes_its_levels_from_it(object_HW):
    levels_HWC = photo(*object_HW.shape, object_HW)
    before_HWC = levels_HWC.copy()
    box, strip = bounding_box(object_HW), largest_strip(object_HW)
    outside_HW = np.ones_like(object_HW)
    outside_HW[box] = False
    tiled_HWC, black_HWC = only_bg_t(levels_HWC, object_HW), only_bg_b(levels_HWC, object_HW)
    assert (tiled_HWC[outside_HW] == levels_HWC[outside_HW]).all()
    assert (black_HWC[outside_HW] == levels_HWC[outside_HW]).all()
    assert not black_HWC[box].any()
    assert strip is not None
    known = {tuple(pixel) for pixel in levels_HWC[strip].reshape(-1, 3)}
    assert {tuple(pixel) for pixel in tiled_HWC[box].reshape(-1, 3)} <= known
    assert (levels_HWC == before_HWC).all()


@given(objects(), objects())
def test_a_mixed_photo_shows_the_object_and_nothing_of_the_lender_s(object_HW, lent_HW):
    levels_HWC = np.full((*object_HW.shape, 3), 7, dtype=np.uint8)
    background_HWC = only_bg_t(photo(*lent_HW.shape, lent_HW), lent_HW)
    shown_HWC = mixed(levels_HWC, object_HW, background_HWC)
    assert (shown_HWC[object_HW] == 7).all()
    if lent_HW.shape == object_HW.shape:
        assert (shown_HWC[~object_HW] == background_HWC[~object_HW]).all()
    # A resized background overshoots a little; a magenta object would lie further out in all three channels.
    around = shown_HWC[~object_HW].astype(int)
    assert not ((around[:, 0] > 250) & (around[:, 1] < 5) & (around[:, 2] > 250)).any()
