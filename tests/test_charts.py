"""A report's figures as PNG, and its line charts on an SVG's canvas."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
import sample_documents as sample
from PIL import Image
from report_store import WILD

from latcli.reporting import svg
from latcli.reporting.charts import charts, heat_map, sweep
from latcli.reporting.evaluations import matrix


def is_drawn(data: bytes) -> bool:
    with Image.open(io.BytesIO(data)) as image:
        return image.format == "PNG" and len(np.unique(np.asarray(image.convert("L")))) > 20


def test_matrix_training_and_curves_are_drawn_the_same_each_time() -> None:
    drawn = dict(charts(sample.report()))

    assert list(drawn) == ["matrix-1-mnist.png", "training-1-mnist.png", "curve-epsilon-20261122-150000-eval-1234.png"]
    assert all(map(is_drawn, drawn.values()))
    assert dict(charts(sample.report())) == drawn


def test_a_higher_loss_is_darker() -> None:
    rows = {f"model {loss}": ((loss, 0.5),) for loss in (0.01, 1.0, 100.0)}
    levels = np.asarray(Image.open(io.BytesIO(heat_map(matrix(sample.matrix(rows, ("standard",)))))).convert("L"))
    middle = np.median(levels[:, int(0.8 * levels.shape[1]) :], axis=1)
    shades = [shade for shade, after in zip(middle, middle[8:], strict=False) if shade == after < 255]

    assert shades[0] > shades[len(shades) // 2] > shades[-1]


@pytest.mark.parametrize("dataset", ["folder:../../$x^2$/..\n", *WILD[:3], ""])
def test_names_of_pictures_stay_in_their_folder(dataset: str) -> None:
    document = sample.nothing(sample.report(), matrices=[sample.matrix(dataset=dataset)])
    ((name, data),) = charts(document)

    assert re.fullmatch(r"matrix-1-[\w.-]+\.png", name)
    assert is_drawn(data)


def test_a_sweep_is_drawn_with_the_papers_figure() -> None:
    line = {"label": "ours", "points": [[0.1, 0.5, 0.1], [0.2, None, None], [0.3, 0.7, None]]}
    panel: dict[str, Any] = {"title": "accuracy", "lines": [line], "paper": 0.6, "decades": False}

    assert is_drawn(sweep({"title": "t", "across": "middle", "panels": [panel, panel | {"decades": True}]}))


# on the page


def chart_of(points: list[tuple[float, float | None]]) -> svg.Chart:
    x = svg.linear("step", (place for place, _ in points))
    return svg.chart("c", "t", x, svg.shares("accuracy"), [svg.Series("a", 0, points)], [])


def test_a_line_breaks_where_a_run_diverged_and_stays_on_the_canvas() -> None:
    drawn = chart_of([(0, 1.0), (1, 0.5), (2, None), (3, 0.25), (4, 5.0)])
    path = drawn.lines[0].path
    places = [tuple(map(float, place.split())) for place in re.split("[ML]", path) if place]

    assert path.count("M") == 2
    assert all(0 <= across <= svg.WIDTH and 0 <= down <= svg.HEIGHT for across, down in places)
    assert places[0][1] < places[1][1] < places[2][1]  # the canvas counts downwards
    assert drawn.table == [("a", ["100.00 %", "50.00 %", "50.00 %", "25.00 %", "500.00 %"])]


def test_the_words_and_the_table_of_a_chart_have_its_figures() -> None:
    drawn = chart_of([(step, step / 100) for step in range(101)])

    assert "At the end: a 100.00 %." in drawn.description
    assert drawn.table_head == [str(10 * place) for place in range(11)]
    assert drawn.table[0][1][5] == "50.00 %"


def test_losses_far_apart_stand_on_a_logarithmic_axis() -> None:
    assert svg.losses("loss", [0.01, 2.0]).logarithmic
    assert not svg.losses("loss", [1.0, 2.0]).logarithmic
    assert svg.losses("loss", []).high > 0


def test_training_and_curves_of_a_report_become_charts() -> None:
    document = sample.report()
    document["training"][0]["series"]["test_loss"] = [[0, 2.0], [9, 0.5]]
    titles = [chart.title for chart in svg.training_charts(document["training"], 1)]
    (curve,) = svg.curve_charts(document)

    assert titles == ["Training loss", "Test loss", "Accuracy on clean training batches"]
    assert curve.title == "mnist standard attack, accuracy against epsilon, n = 100"
    assert [text for _, text in curve.x_ticks] == ["0", "8/255", "0.3"]
    assert len({line.style for line in curve.lines}) == 3
