"""Pictures of results: Figure 1, the amplified difference, heat maps and curves, whatever things are called."""

import hashlib
import io
import math
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import sample_documents as sample
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from report_store import WILD
from tiny_model import blobs

from latcli.reporting.documents import training_curves
from latcli.reporting.evaluations import curves, matrix
from latcli.reporting.figures import (
    Guess,
    Panel,
    amplified_difference,
    charts,
    drawn,
    heat_map,
    in_words,
    means,
    triptych,
    without_glyph_warnings,
)
from latcli.reporting.table import Cell, Column, Row, Table

GREEN, GREY = (0x2E, 0x9E, 0x4F), (0x9A, 0xA3, 0xAD)
RED, LIME, BLUE = (250, 0, 0), (0, 250, 0), (0, 0, 250)


def guesses_of(*confidences, right=0):
    return [Guess(f"class {place}", value, place == right) for place, value in enumerate(confidences)]


def panel_of(colour, *confidences, right=0):
    return Panel("a title", np.full((60, 60, 3), colour, dtype=np.uint8), guesses_of(*confidences, right=right))


def levels_of(data):
    """A PNG as levels_HWC."""
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def figure_1(*panels, caption="hen: 49.1 % of pixels altered"):
    with without_glyph_warnings():
        return levels_of(triptych(panels, caption))


def places_of(levels_HWC, colour):
    """Rows and columns of the pixels of a colour."""
    rows, columns = np.nonzero((np.abs(levels_HWC.astype(int) - colour) <= 2).all(axis=2))
    return rows, columns


def test_three_photos_stand_side_by_side_the_right_way_up():
    split = np.full((60, 60, 3), RED, dtype=np.uint8)
    split[30:] = BLUE
    levels = figure_1(Panel("one", split, guesses_of(0.5)), panel_of(LIME, 0.5), panel_of((0, 0, 0), 0.5))
    height, width, _ = levels.shape
    (red, _), (blue, _), (_, lime) = (places_of(levels, colour) for colour in (RED, BLUE, LIME))
    assert width == pytest.approx(3 * 3.2 * 130, abs=2)
    assert red.max() < blue.min() < blue.max() < 0.8 * height
    assert width / 3 < lime.min() < lime.max() < 2 * width / 3


def test_bars_are_as_long_as_the_confidence_and_only_the_right_class_is_green():
    levels = figure_1(panel_of((0, 0, 0), 0.8, 0.4, right=1))
    (_, wrong), (_, right) = places_of(levels, GREY), places_of(levels, GREEN)
    assert min(len(wrong), len(right)) > 100
    assert np.ptp(wrong) == pytest.approx(2 * np.ptp(right), rel=0.03)
    assert len(places_of(figure_1(panel_of((0, 0, 0), 0.8, right=9)), GREEN)[0]) == 0


def test_names_are_drawn_as_text_whatever_they_hold():
    names = [*WILD, r"$\frac{1}{0}$ \$ $$ $", r"\undefined{x}_^", "caf\udce9", "貓 🐔 \u0e01", "very long " * 60, ""]
    wild = Panel(names[12], blobs(), [Guess(name, 0.5, False) for name in names])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib's warnings of missing letters would stand on the user's terminal
        assert figure_1(wild, caption=" ".join(names[-6:-1])).shape[1] == pytest.approx(3.2 * 130, abs=2)
    # As a formula, `$x$` would be drawn without its dollar signs, like another formula of the same letters.
    assert len({triptych([panel_of(RED, 0.5)], caption) for caption in ("$x$", "$ x $", "x")}) == 3


@pytest.mark.parametrize(("height", "width"), [(1, 3000), (3000, 1), (900, 1200)])
def test_photos_of_every_shape_fit_and_so_do_guesses_of_every_number(height, width):
    levels = figure_1(*(Panel("one", blobs(height, width), guesses_of(*[0.1] * count)) for count in (1, 6)))
    assert 300 < levels.shape[0] < 1200
    assert len(places_of(levels, GREEN)[0]) > 0


def digest():
    return hashlib.sha256(triptych([panel_of(RED, 0.7, 0.2)], "hen")).hexdigest()


@pytest.mark.slow
def test_the_same_result_gives_the_same_bytes_in_every_process():
    code = "import sys; sys.path.insert(0, sys.argv[1]); from test_figures import digest; print(digest())"
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", code, here], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest()


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), gain=st.floats(0.5, 127.0))
def test_the_difference_is_amplified_around_grey(seed, gain):
    before, after = np.random.default_rng(seed).integers(0, 256, (2, 3, 4, 3), dtype=np.uint8)
    expected = np.clip(np.rint(128 + gain * (after.astype(float) - before)), 0, 255)
    np.testing.assert_array_equal(amplified_difference(before, after, gain), expected)
    assert (amplified_difference(before, before, gain) == 128).all()


def is_drawn(data):
    return len(np.unique(levels_of(data))) > 20


def test_matrix_training_and_curves_are_drawn_the_same_each_time():
    document = sample.report()
    shown = dict(charts(document))
    assert list(shown) == ["matrix-1-mnist.png", "training-1-mnist.png", "curve-epsilon-20261122-150000-eval-1234.png"]
    assert all(map(is_drawn, shown.values()))
    assert dict(charts(document)) == shown
    tables = curves(*document["evaluations"])
    assert drawn("", tables, "svg") == drawn("", tables, "svg")


def test_a_higher_loss_is_darker():
    rows = {f"model {loss}": ((loss, 0.5),) for loss in (0.01, 1.0, 100.0)}
    levels = levels_of(heat_map(matrix(sample.matrix(rows, ("standard",)))))
    middle = np.median(levels[:, int(0.8 * levels.shape[1]) :].mean(axis=2), axis=1)
    shades = [shade for shade, after in zip(middle, middle[8:], strict=False) if shade == after < 255]
    assert shades[0] > shades[len(shades) // 2] > shades[-1]


def test_names_of_pictures_stay_in_their_folder():
    for dataset in ["folder:../../$x^2$/..\n", *WILD[:3], ""]:
        document = sample.nothing(sample.report(), matrices=[sample.matrix(dataset=dataset)])
        ((name, data),) = charts(document)
        assert re.fullmatch(r"matrix-1-[\w.-]+\.png", name)
        assert is_drawn(data)


def test_curves_of_training_and_of_attacks_are_tables_that_can_be_drawn():
    document = sample.report()
    document["training"][0]["series"]["test_loss"] = [[0, 2.0], [9, 0.5]]
    training, (curve,) = training_curves(document["training"]), curves(*document["evaluations"])
    assert [(table.title, table.columns[-1].format) for table in training] == [
        ("Training loss, mnist", "number"), ("Test loss, mnist", "number"),
        ("Accuracy on clean training batches, mnist", "percent"),
    ]  # fmt: skip
    assert in_words(training[0]) == "Training loss, mnist. At the end: natural 00a0 0.0500."
    assert [column.key for column in training[0].columns] == ["line", "0", "5", "9"]
    label, *values = [cell.value for cell in training[0].rows[0].cells]
    assert (label, values) == ("natural 00a0", [2.0, 0.05, pytest.approx(math.nan, nan_ok=True)])
    assert [float(column.key) for column in curve.columns[1:]] == [0.0, 8 / 255, 0.3]
    assert [row.cells[-1].value for row in curve.rows] == [pytest.approx(0.6)] * 3


def test_runs_of_other_steps_are_lines_of_one_plot():
    series = [[[0, 2.0], [4, 1.0]], [[0, 3.0], [3, 1.0], [6, 0.5]]]
    (table,) = training_curves([sample.trained(place, series={"loss": one}) for place, one in enumerate(series)])
    assert [column.key for column in table.columns[1:]] == ["0", "3", "4", "6"]
    assert [cell.value for cell in table.rows[0].cells[1:]] == [2.0, None, 1.0, None]
    assert "natural 00a0 1.0" in in_words(table)


def test_means_are_drawn_with_gaps_and_the_papers_figure():
    values = {0.1: (0.5, 0.1), 0.2: (None, None), 0.3: (0.7, None), None: (0.6, None)}
    rows = [{"name": "paper" if x is None else str(x), "x": x,
             "means": {key: {"value": mean, "spread": beside} for key in ("accuracy", "loss")}}
            for x, (mean, beside) in values.items()]  # fmt: skip
    table = {"title": "t", "heading": "middle", "columns": {"accuracy": "percent", "loss": "short"}}
    assert is_drawn(means(table | {"rows": rows, "drawn": ["accuracy", "loss"]}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = tuple(Row((Cell(name), Cell(0.1), Cell(math.nan))) for name in WILD)
        assert drawn(
            "$", [Table(WILD[0], (Column("", "x"), Column("0", "0", "number"), Column("1", "1")), rows)], "svg"
        )
