"""Pictures of results: the three panels of Figure 1 and the amplified difference, whatever things are called."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from report_store import WILD
from tiny_model import blobs

from latcli.reporting.figures import Guess, Panel, amplified_difference, triptych

GREEN, GREY = (0x2E, 0x9E, 0x4F), (0x9A, 0xA3, 0xAD)
RED, LIME, BLUE, YELLOW = (250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0)


def guesses_of(*confidences: float, right: int = 0) -> list[Guess]:
    return [Guess(f"class {place}", value, place == right) for place, value in enumerate(confidences)]


def panel_of(colour: tuple[int, int, int], *confidences: float, right: int = 0) -> Panel:
    return Panel("a title", np.full((60, 60, 3), colour, dtype=np.uint8), guesses_of(*confidences, right=right))


def drawn(*panels: Panel, caption: str = "hen: 49.1 % of pixels altered") -> np.ndarray:
    """The figure as levels_HWC."""
    with Image.open(io.BytesIO(triptych(panels, caption))) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def places_of(levels_HWC: np.ndarray, colour: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels of a colour."""
    rows, columns = np.nonzero((np.abs(levels_HWC.astype(int) - colour) <= 2).all(axis=2))
    return rows, columns


def test_three_panels_stand_side_by_side() -> None:
    colours = (RED, LIME, BLUE)
    levels = drawn(*(panel_of(colour, 0.5) for colour in colours))
    height, width, _ = levels.shape

    assert width == pytest.approx(3 * 3.2 * 130, abs=2)
    assert height < width
    for number, colour in enumerate(colours):
        rows, columns = places_of(levels, colour)
        assert width * number / 3 < columns.min() < columns.max() < width * (number + 1) / 3
        assert columns.max() - columns.min() > width / 5
        assert rows.max() < 0.8 * height


def test_a_photo_is_shown_as_it_is() -> None:
    photo = np.zeros((40, 40, 3), dtype=np.uint8)
    photo[:20, :20], photo[:20, 20:], photo[20:, :20], photo[20:, 20:] = RED, LIME, BLUE, YELLOW
    levels = drawn(Panel("one", photo, guesses_of(0.5)))
    (red, lime, blue, yellow) = (
        [part.mean() for part in places_of(levels, colour)] for colour in (RED, LIME, BLUE, YELLOW)
    )

    assert max(red[0], lime[0]) + 50 < min(blue[0], yellow[0])
    assert max(red[1], blue[1]) + 50 < min(lime[1], yellow[1])


def test_bars_are_as_long_as_the_confidence_and_only_the_right_class_is_green() -> None:
    levels = drawn(panel_of((0, 0, 0), 0.8, 0.4, right=1))
    (_, wrong), (_, right) = places_of(levels, GREY), places_of(levels, GREEN)

    assert min(len(wrong), len(right)) > 100
    assert right.min() == pytest.approx(wrong.min(), abs=2)
    assert np.ptp(wrong) == pytest.approx(2 * np.ptp(right), rel=0.03)
    assert len(places_of(drawn(panel_of((0, 0, 0), 0.8, right=9)), GREEN)[0]) == 0


def test_names_are_drawn_as_text_whatever_they_hold() -> None:
    names = [*WILD, r"$\frac{1}{0}$ \$ $$ $", r"\undefined{x}_^", "caf\udce9", "貓 🐔 \u0e01", "very long " * 60, ""]
    wild = Panel(names[12], blobs(), [Guess(name, 0.5, False) for name in names])
    plain = Panel("title", blobs(), [Guess("name", 0.5, False) for _ in names])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what matplotlib says of a letter would stand on the user's terminal
        levels = drawn(wild, caption=" ".join(names[-6:-1]))

    assert levels.shape[1] == drawn(plain).shape[1]


def test_a_dollar_sign_is_no_formula() -> None:
    """As a formula, `$x$` would be drawn without its dollar signs, like another formula of the same letters."""
    formulas = {triptych([panel_of(RED, 0.5)], caption) for caption in ("$x$", "$ x $", "x")}
    assert len(formulas) == 3


@pytest.mark.parametrize(("height", "width"), [(1, 3000), (3000, 1), (900, 1200)])
def test_photos_of_every_shape_fit_and_so_do_guesses_of_every_number(height: int, width: int) -> None:
    levels = drawn(*(Panel("one", blobs(height, width), guesses_of(*[0.1] * count)) for count in (1, 6)))
    assert 300 < levels.shape[0] < 1200
    assert len(places_of(levels, GREEN)[0]) > 0


def digest() -> str:
    return hashlib.sha256(triptych([panel_of(RED, 0.7, 0.2)], "hen")).hexdigest()


@pytest.mark.slow
def test_the_same_result_gives_the_same_bytes_in_every_process() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); from test_figures import digest; print(digest())"
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", code, here], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest()


# the amplified difference


def test_the_difference_is_amplified_around_grey() -> None:
    before = np.array([[[100, 100, 100], [0, 10, 255], [50, 50, 50]]], dtype=np.uint8)
    after = np.array([[[100, 103, 97], [8, 2, 247], [50, 250, 0]]], dtype=np.uint8)
    expected = [[[128, 158, 98], [208, 48, 48], [128, 255, 0]]]
    np.testing.assert_array_equal(amplified_difference(before, after, 10.0), expected)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), gain=st.floats(0.5, 127.0))
def test_the_difference_is_what_the_formula_says(seed: int, gain: float) -> None:
    before, after = np.random.default_rng(seed).integers(0, 256, (2, 3, 4, 3), dtype=np.uint8)
    expected = np.clip(np.rint(128 + gain * (after.astype(float) - before)), 0, 255)
    np.testing.assert_array_equal(amplified_difference(before, after, gain), expected)
    assert (amplified_difference(before, before, gain) == 128).all()
