"""Reliance on the background: photos taken apart along the object, known classifiers, who lends to whom."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from latcli.engine.evaluation.reliance import (
    VARIANTS,
    LabelledPhoto,
    Outcome,
    PhotoReliance,
    Survey,
    background_reliance,
    bounding_box,
    largest_strip,
    mixed,
    only_bg_b,
    only_bg_t,
    only_fg,
    summarize,
)
from latcli.engine.images import decode_photo, encode_png
from latcli.engine.models.classifier import Classifier
from latcli.engine.models.preprocessing import Preprocessing
from latcli.errors import LatcliError

CROP = 20
NAMES = ("red", "green", "blue", "cyan")
COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (40, 200, 200))
PREPROCESSING = Preprocessing(CROP, CROP, "bilinear")


class ColourNet(nn.Module):
    """The class whose colour is nearest to the mean of some pixels; `where` is True there."""

    where: torch.Tensor

    def __init__(self, where):
        super().__init__()
        self.register_buffer("where", where)

    def forward(self, x_BCHW):
        mean_B1C = x_BCHW[:, :, self.where].mean(dim=2)[:, None]
        return -50 * (mean_B1C - torch.tensor(COLOURS) / 255).square().sum(dim=2)


def classifier(net, names=NAMES):
    return Classifier("known", net, PREPROCESSING, names)


def looking_at(rows, rest=False):
    """Looks at the square of these rows and columns, or at the rest."""
    where = torch.full((CROP, CROP), rest)
    where[rows, rows] = not rest
    return classifier(ColourNet(where))


BORDER, CENTRE = looking_at(slice(2, -2), rest=True), looking_at(slice(9, 11))


def labelled(label, number=0, *, height=30, width=30, half=6):
    """A photo whose object and background both have the class's colour, a little noisy; its middle is the object."""
    noise_HWC = np.random.default_rng((label, number)).integers(-20, 20, (height, width, 3))
    levels_HWC = (np.array(COLOURS[label]) + noise_HWC).astype(np.uint8)
    object_HW = np.zeros((height, width), dtype=bool)
    object_HW[height // 2 - half : height // 2 + half, width // 2 - half : width // 2 + half] = True
    return LabelledPhoto(decode_photo(encode_png(levels_HWC), f"{label}-{number}.png"), label, object_HW)


def some_photos(each=4):
    """`each` photos of each class, of four sizes and four shares of background."""
    return [
        labelled(label, number, height=30 + 4 * (number % 4), width=34 - 2 * (number % 4), half=4 + number % 4)
        for label in range(len(NAMES))
        for number in range(each)
    ]


def measured(known, photos, *seeds, groups=4):
    """The row, and every photo as it was measured."""
    seen = []
    return background_reliance("known", known, photos, seeds or (0,), groups, seen.append), seen


def accuracies(row):
    return {variant: mean.accuracy for variant, mean in row.overall.means.items()}


def test_who_looks_at_the_background_alone_is_found_out_and_who_looks_at_the_object_has_no_gap():
    row, _ = measured(BORDER, some_photos())
    # On black nothing of the label is left: black is as near to three of the colours, and further from the fourth.
    no_background = {"original": 1, "only_fg": 0, "only_bg_b": 1, "only_bg_t": 1, "mixed_same": 1, "mixed_rand": 0}
    assert accuracies(row) == no_background
    assert dataclasses.astuple(row.overall.gap) == (16, 1, 0, 1, 0)
    row, _ = measured(CENTRE, some_photos())
    no_object = {"original": 1, "only_fg": 1, "only_bg_b": 0, "only_bg_t": 1, "mixed_same": 1, "mixed_rand": 1}
    assert accuracies(row) == no_object
    assert dataclasses.astuple(row.overall.gap) == (16, 1, 1, 0, 0)


def test_backgrounds_come_from_the_right_class_and_never_from_the_photo_itself():
    photos = some_photos()
    label_of = {one.photo.name: one.label for one in photos}
    for one in measured(BORDER, photos, *range(5))[1]:
        assert {label_of[name] for name in one.lent_by["mixed_same"]} == {one.label}
        assert one.name not in one.lent_by["mixed_same"]
        assert one.label not in {label_of[name] for name in one.lent_by["mixed_rand"]}
    survey = Survey(photos, PREPROCESSING)
    sha256 = photos[0].photo.sha256
    assert {survey.lender("mixed_same", sha256, 0, seed) for seed in range(200)} == {1, 2, 3}
    assert {survey.lender("mixed_rand", sha256, 0, seed) for seed in range(400)} == set(range(4, 16))


def test_lenders_depend_on_the_seed_and_nothing_on_the_order_of_the_photos():
    row, forwards = measured(BORDER, some_photos(), 3)
    again, backwards = measured(BORDER, some_photos()[::-1], 3)
    assert (row, forwards) == (again, backwards[::-1])
    _, other = measured(BORDER, some_photos(), 4)
    assert [one.lent_by for one in other] != [one.lent_by for one in forwards]


def test_what_has_no_lender_is_not_counted():
    for photos, same, rand, without_same in [
        ([(0, 0), (0, 1), (1, 0)], 2, 3, 1),  # the only photo of a class has no part in the gap
        ([(0, 0), (1, 0), (2, 0), (3, 0)], 0, 4, 4),
        ([(0, 0), (0, 1)], 2, 0, 0),
        ([(0, 0), (0, 0), (1, 0), (1, 1)], 2, 4, 2),  # a photo that is there twice lends nothing to itself
    ]:
        row, _ = measured(BORDER, [labelled(*one) for one in photos])
        counts = {variant: mean.n for variant, mean in row.overall.means.items()}
        assert counts == dict.fromkeys(VARIANTS, len(photos)) | {"mixed_same": same, "mixed_rand": rand}
        assert (row.without_same, row.overall.gap.n) == (without_same, min(same, rand))
        if not row.overall.gap.n:
            assert dataclasses.astuple(row.overall.gap) == (0, None, None, None, None)


def outcome_of(name, same, rand):
    outcomes = {"original": Outcome(True, 0.9), "mixed_rand": Outcome(rand, 0.5)}
    outcomes |= {} if same is None else {"mixed_same": Outcome(same, 0.7)}
    return PhotoReliance(name, name, 0, 0.5, outcomes, {})


def test_both_sides_of_the_gap_are_the_same_photos():
    given = ((None, True), (None, True), (True, False), (True, True), (False, False))
    results = [outcome_of(str(number), *one) for number, one in enumerate(given)]
    overall = summarize(results)
    assert overall.means["mixed_rand"].accuracy == pytest.approx(3 / 5)
    # Differences 1, 0, 0: mean 1/3, sample variance 1/3, over 3 photos.
    expected = (3, 2 / 3, 1 / 3, 1 / 3, math.sqrt(1 / 3 / 3))
    assert dataclasses.astuple(overall.gap) == pytest.approx(expected)


def test_over_several_donor_seeds_a_photo_stays_one_sample():
    """Differences of the photos are 0.5 and 1, whose mean is 0.75 with a standard error of 0.25."""
    results = [outcome_of("a", 1.0, 0.5), outcome_of("b", 1.0, 0.0)]
    gap = summarize(results).gap
    assert dataclasses.astuple(gap) == (2, 1.0, 0.25, 0.75, 0.25)
    both, *each = (measured(BORDER, some_photos(), *seeds)[1] for seeds in ((3, 4), (3,), (4,)))
    for found, *alone in zip(both, *each, strict=True):
        assert found.lent_by["mixed_same"] == tuple(one.lent_by["mixed_same"][0] for one in alone)
        mean = sum(one.outcomes["mixed_rand"].confidence for one in alone) / 2
        assert found.outcomes["mixed_rand"].confidence == pytest.approx(mean)


def test_photos_that_tell_nothing_are_left_out_by_name():
    photos = some_photos()
    nothing, everything, aside = labelled(0, 10), labelled(1, 11), labelled(2, 12, height=30, width=90)
    nothing.object_HW[:] = False
    everything.object_HW[:] = True
    aside.object_HW[:] = False
    aside.object_HW[:, :10] = True
    row, each = measured(BORDER, [nothing, *photos, everything, aside])
    assert [(one.name, one.why) for one in row.left_out] == [
        ("0-10.png", "no object where the classifier looks"),
        ("1-11.png", "no background beside the object's box"),
        ("2-12.png", "no object where the classifier looks"),
    ]
    assert row.overall.n == len(photos)
    assert not {one.name for one in row.left_out} & {
        name for one in each for names in one.lent_by.values() for name in names
    }


def test_groups_by_share_are_of_equal_count_and_ascend():
    row, _ = measured(BORDER, some_photos())
    assert [group.n for group in row.by_share] == [4, 4, 4, 4]
    edges = [edge for group in row.by_share for edge in (group.low, group.high)]
    assert edges == sorted(edges)
    assert (edges[0], edges[-1]) == (row.overall.low, row.overall.high)
    assert sum(group.gap.n for group in row.by_share) == row.overall.gap.n
    assert [group.n for group in measured(BORDER, some_photos()[:3])[0].by_share] == [1, 1, 1]
    # Of a photo of 60x30 the classifier sees the middle 30x30, of which half is background.
    one = labelled(0, 0, height=30, width=60)
    one.object_HW[:, :30], one.object_HW[:, 30:] = False, True
    assert measured(BORDER, [one, labelled(1)])[1][0].background_share == 0.5


def test_a_set_without_a_photo_is_refused():
    with pytest.raises(LatcliError, match="no photo is left to measure"):
        measured(BORDER, [])


#: A colour that no background of these tests has.
MAGENTA = (255, 0, 255)


def photo(height, width, object_HW, seed=0):
    """Random dull levels with a magenta object."""
    levels_HWC = np.random.default_rng(seed).integers(10, 200, (height, width, 3), dtype=np.uint8)
    levels_HWC[object_HW] = MAGENTA
    return levels_HWC


@st.composite
def objects(draw):
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
