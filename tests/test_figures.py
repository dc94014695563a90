"""Pictures of results: the three panels of Figure 1 and the amplified difference, whatever things are called."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_model import blobs

from latcli.reporting.figures import Guess, Panel, amplified_difference, triptych

GREEN, GREY = (0x2E, 0x9E, 0x4F), (0x9A, 0xA3, 0xAD)


def guesses_of(*confidences: float, right: int = 0, name: str = "class") -> list[Guess]:
    return [Guess(f"{name} {place}", value, place == right) for place, value in enumerate(confidences)]


def panels_of(height: int = 60, width: int = 80, guesses: list[Guess] | None = None) -> list[Panel]:
    shown = guesses or guesses_of(0.7, 0.2, 0.1)
    return [
        Panel(title, blobs(height, width, seed), shown) for seed, title in enumerate(("photo", "object", "adversarial"))
    ]


def drawn(panels: list[Panel], caption: str = "hen: 49.1 % of pixels altered") -> np.ndarray:
    """The figure as levels_HWC."""
    data = triptych(panels, caption)
    assert Image.open(io.BytesIO(data)).format == "PNG"
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def pixels_of(levels_HWC: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (np.abs(levels_HWC.astype(int) - colour) <= 2).all(axis=2)


def test_three_panels_stand_side_by_side() -> None:
    red, green, blue = (
        np.full((60, 60, 3), colour, dtype=np.uint8) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))
    )
    levels = drawn([Panel("one", colour, guesses_of(0.5)) for colour in (red, green, blue)])
    height, width, _ = levels.shape
    assert width == pytest.approx(3 * 3.2 * 130, abs=2)
    assert height < width
    for number, colour in enumerate(((250, 0, 0), (0, 250, 0), (0, 0, 250))):
        rows, columns = np.nonzero(pixels_of(levels, colour))
        assert width * number / 3 < columns.min() < columns.max() < width * (number + 1) / 3
        assert columns.max() - columns.min() > width / 5
        assert rows.max() < 0.8 * height


def test_a_photo_is_shown_as_it_is() -> None:
    photo = np.zeros((40, 40, 3), dtype=np.uint8)
    photo[:20, :20], photo[:20, 20:], photo[20:, :20], photo[20:, 20:] = (
        (250, 0, 0),
        (0, 250, 0),
        (0, 0, 250),
        (250, 250, 0),
    )
    levels = drawn([Panel("one", photo, guesses_of(0.5))] * 3)[:, :400]
    centers = {}
    for name, colour in (("a", (250, 0, 0)), ("b", (0, 250, 0)), ("c", (0, 0, 250)), ("d", (250, 250, 0))):
        rows, columns = np.nonzero(pixels_of(levels, colour))
        centers[name] = (rows.mean(), columns.mean())
    for axis, (first, second) in enumerate((("ab", "cd"), ("ac", "bd"))):
        places = [[centers[name][axis] for name in names] for names in (first, second)]
        assert max(places[0]) + 50 < min(places[1])


def test_bars_are_as_long_as_the_confidence_and_only_the_right_class_is_green() -> None:
    black = np.zeros((60, 60, 3), dtype=np.uint8)
    levels = drawn([Panel("one", black, guesses_of(0.8, 0.4, right=1))] * 3)[:, :400]
    lengths = {}
    for name, colour in (("wrong", GREY), ("right", GREEN)):
        rows, columns = np.nonzero(pixels_of(levels, colour))
        assert len(rows) > 100, name
        lengths[name] = columns.max() - columns.min()
        assert columns.min() == pytest.approx(np.nonzero(pixels_of(levels, GREY))[1].min(), abs=2)
    assert lengths["wrong"] == pytest.approx(2 * lengths["right"], rel=0.03)
    no_right = drawn([Panel("one", black, guesses_of(0.8, 0.4, right=9))] * 3)
    assert not pixels_of(no_right, GREEN).any()


def test_the_same_result_gives_the_same_bytes_in_every_process() -> None:
    code = (
        "import sys, hashlib\nsys.path.insert(0, sys.argv[1])\n"
        "from test_figures import panels_of, triptych\n"
        "print(hashlib.sha256(triptych(panels_of(), 'hen')).hexdigest())\n"
    )
    here = __file__.rpartition("/")[0]
    done = subprocess.run([sys.executable, "-c", code, here], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(triptych(panels_of(), "hen")).hexdigest()
    assert triptych(panels_of(), "hen") != triptych(panels_of(), "cock")


@pytest.mark.parametrize(
    "name",
    [
        "costs $5 or $6",
        r"$\frac{1}{0}$ \$ $$ $",
        r"\undefined{x}_^",
        "<img src=x onerror=alert(1)>",
        "[red]hen[/red]",
        "line\nbreak\x1b[31m\x00\u202e",
        "caf\udce9",
        "貓 🐔 \u0e01",
        "very long " * 60,
        "",
    ],
)
def test_names_are_drawn_as_text_whatever_they_hold(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what matplotlib has to say of a letter would stand on the user's terminal
        levels = drawn(panels_of(guesses=guesses_of(0.6, 0.3, name=name)), caption=name)
    assert levels.shape[1] == drawn(panels_of(guesses=guesses_of(0.6, 0.3))).shape[1]


def test_a_dollar_sign_is_no_formula() -> None:
    """As a formula, `$x$` would be drawn without its dollar signs, like another formula of the same letters."""
    formulas = [triptych(panels_of(), caption) for caption in ("$x$", "$ x $", "x")]
    assert len(set(formulas)) == 3


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3000), (3000, 1), (900, 1200), (2000, 30)])
def test_photos_of_every_shape_fit(height: int, width: int) -> None:
    levels = drawn(panels_of(height, width))
    assert 300 < levels.shape[0] < 1200
    assert pixels_of(levels, GREEN).any()


def test_panels_may_have_guesses_of_different_numbers() -> None:
    panels = [Panel("one", blobs(), guesses_of(*[0.1] * count)) for count in (1, 5, 6)]
    assert pixels_of(drawn(panels), GREEN).any()


# The amplified difference


def test_the_difference_is_amplified_around_grey() -> None:
    before = np.array([[[100, 100, 100], [0, 10, 255], [50, 50, 50]]], dtype=np.uint8)
    after = np.array([[[100, 103, 97], [8, 2, 247], [50, 250, 0]]], dtype=np.uint8)
    expected = [[[128, 158, 98], [208, 48, 48], [128, 255, 0]]]
    np.testing.assert_array_equal(amplified_difference(before, after, 10.0), expected)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), gain=st.floats(0.5, 127.0))
def test_the_difference_is_what_the_formula_says(seed: int, gain: float) -> None:
    before, after = np.random.default_rng(seed).integers(0, 256, (2, 3, 4, 3), dtype=np.uint8)
    expected = np.clip(np.rint(128 + gain * (after.astype(float) - before)), 0, 255)
    np.testing.assert_array_equal(amplified_difference(before, after, gain), expected)
    assert (amplified_difference(before, before, gain) == 128).all()
