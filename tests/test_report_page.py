"""The report's page as text and pictures: what is escaped, what is exact, what its colours and its chart promise."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_store import attack_files, levels
from PIL import Image
from report_store import WILD

from latcli.reporting.page import render
from latcli.reporting.page.charts import Series, chart, linear, losses, shares
from latcli.reporting.page.matrix import STEPS, heat_map
from latcli.reporting.page.pictures import change, difference_gain, original, pictures

CSS = resources.files("latcli.reporting.page").joinpath("templates", "page.css").read_text(encoding="utf-8")


def cell(loss: float | None, **more: Any) -> dict[str, Any]:
    return {"loss": loss, "loss_spread": None, "accuracy": 0.5, "accuracy_spread": None, "n": 1000} | more


def matrix(*cells: dict[str, Any]) -> dict[str, Any]:
    rows = [
        {"label": f"model {place}", "model_count": 1, "train_runs": [], "cells": {"natural": one, "standard": one}}
        for place, one in enumerate(cells)
    ]
    protocol = {"dataset": "mnist", "epsilon": 0.3, "attack": "pgd", "steps": 100, "restarts": 1, "seeds": [0]}
    return protocol | {"id": "matrix-1", "natural_scale": 1000, "inputs": ["natural", "standard"], "rows": rows}


def guesses(*names: str) -> list[dict[str, Any]]:
    return [{"index": index, "name": name, "p": 0.9} for index, name in enumerate(names, start=8)]


def image(name: str, files: dict[str, str | None]) -> dict[str, Any]:
    clean = {"prediction": "hen", "confidence": 0.9, "rank": 1, "top": guesses("hen", "cock")}
    after = {"prediction": name, "confidence": 1e-9, "rank": 997, "top": guesses(name)}
    shares = {"altered_percent": 40.0, "background_percent": 50.0, "linf_inside": 0.0, "linf_outside": 8 / 255}
    label = {"index": 8, "name": "hen", "source": "given"}
    return {"image": f"photos/{name}", "label": label, "clean": clean, "adversarial": after, "files": files} | shares


def document(name: str = "hen.jpg", files: dict[str, str | None] | None = None) -> dict[str, Any]:
    run = f"run of {name}"
    attack = {"run": run, "classifier": name, "detector": name, "epsilon": 8 / 255, "norm": "linf", "steps": 40}
    attack |= {"restarts": 1, "region": "background", "summary": {}, "images": [image(name, files or {})]}
    listed = {"run": run, "command": name, "config": {name: name}, "argv": ["latcli", name], "seed": 0}
    fault = {"run": run, "name": name, "fault": "changed", "detail": name}
    left_out = {"run": run, "command": "train", "status": "crashed", "why": name}
    said = {"claim": name, "paper": name, "ours": name, "verdict": "fails"}
    paper = {"figure2": [{"dataset": name, "cells": [], "claims": [said], "protocol": [name]}]}
    whole = {"store": name, "attacks": [attack], "runs": [listed], "faults": [fault], "left_out": [left_out]}
    return whole | {"matrices": [matrix(cell(1.0)) | {"dataset": name, "warnings": [name]}], "paper": paper}


class Seen(HTMLParser):
    """Every element, every attribute, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def page_of(told: dict[str, Any], files: dict[str, bytes] | None = None) -> str:
    return "".join(render(told, (files or {}).get))


@pytest.mark.parametrize("name", WILD)
def test_no_name_does_harm_wherever_it_stands(name: str) -> None:
    plain, wild = (Seen(page_of(document(one))) for one in ("hen.jpg", name))

    assert wild.tags == plain.tags
    assert [key for key, _ in wild.attributes] == [key for key, _ in plain.attributes]
    assert all(text.isprintable() for part in wild.texts for text in part.split("\n") if "--page" not in part)


def test_the_policy_allows_the_page_itself_and_nothing_else() -> None:
    text = page_of(document())
    policy = re.search(r'Policy" content="([^"]*)"', text)
    assert policy is not None
    allowed = policy[1].replace("&#39;", "'")

    for tag in ("style", "script"):
        body = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.S)
        assert body is not None
        digest = base64.b64encode(hashlib.sha256(body[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in allowed
    assert "default-src 'none'" in allowed
    assert "unsafe" not in allowed
    keys = {key for key, _ in Seen(text).attributes}
    assert not any(key.startswith("on") or key == "style" for key in keys)
    assert "http://" not in text.replace("http://example.org", "")
    assert "https://" not in text


def test_sections_stand_only_where_there_is_something_to_show() -> None:
    text = page_of({"store": "runs", "matrices": [matrix(cell(1.0))]})

    assert re.findall(r'<section id="([^"]+)"', text) == ["matrix"]
    assert re.findall(r'<li><a href="#([^"]+)"', text) == ["matrix"]


def test_the_photo_as_it_was_follows_from_the_adversarial_one_and_the_difference() -> None:
    before_HWC, after_HWC, _ = levels()
    files = attack_files()
    shown = np.asarray(Image.open(io.BytesIO(files["difference"])))

    found = original(after_HWC, change(shown, difference_gain(8 / 255)))

    assert found is not None
    assert np.array_equal(found, before_HWC)


@given(st.integers(1, 127), st.integers(0, 2**32 - 1))
def test_a_difference_is_exact_for_every_gain_from_one_on(most: int, seed: int) -> None:
    from latcli.reporting.figures import amplified_difference

    drawn = np.random.default_rng(seed)
    before_HWC = drawn.integers(0, 256, (4, 4, 3)).astype(np.uint8)
    after_HWC = np.clip(before_HWC + drawn.integers(-most, most + 1, before_HWC.shape), 0, 255).astype(np.uint8)
    gain = difference_gain(most / 255)

    shown = amplified_difference(before_HWC, after_HWC, gain)

    assert np.array_equal(change(shown, gain), after_HWC.astype(int) - before_HWC)


def test_pictures_that_do_not_belong_together_give_no_photo() -> None:
    assert original(np.zeros((1, 1, 3), np.uint8), np.full((1, 1, 3), 5, np.int16)) is None


def test_pictures_are_small_and_say_what_is_missing() -> None:
    files = {kind: kind for kind in ("adversarial", "difference", "mask")}
    data = attack_files()
    shown = pictures(image("hen.jpg", dict(files)), data.get, side=48)
    assert shown is not None
    assert (shown.width, shown.height) == (48, 32)
    sizes = {kind: Image.open(io.BytesIO(base64.b64decode(webp))).size for kind, webp in shown.webp.items()}
    assert sizes == dict.fromkeys(("after", "before", "difference", "mask"), (48, 32))

    text = page_of(document(files=dict(files)), data | {"mask": b"no picture"})
    assert "Not to be had, so not shown: the mask." in text
    assert "adversarial photo is not there" in page_of(document(files=dict(files)), {})


def test_what_is_protected_is_black_in_the_difference_and_tinted_by_the_mask() -> None:
    files: dict[str, str | None] = {kind: kind for kind in ("adversarial", "difference", "mask")}
    shown = pictures(image("hen.jpg", files), attack_files().get, side=96)
    assert shown is not None
    read = {kind: Image.open(io.BytesIO(base64.b64decode(shown.webp[kind]))) for kind in ("difference", "mask")}
    difference, tint = np.asarray(read["difference"].convert("L")), np.asarray(read["mask"].convert("RGBA"))

    assert difference[26:44, 38:62].max() < 16
    assert difference[:16].mean() > 100
    assert tint[35, 50, 3] > 0
    assert tint[5, 5, 3] == 0


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [(1, 997, "fooled"), (1, 1, "still right"), (3, 5, "wrong before, too"), (3, 1, "right"), (1, None, "not known")],
)
def test_nobody_was_fooled_who_was_wrong_before(before: int, after: int | None, verdict: str) -> None:
    told = document()
    photo = told["attacks"][0]["images"][0]
    photo["clean"]["rank"], photo["adversarial"]["rank"] = before, after
    said = {text.strip() for text in Seen(page_of(told)).texts}
    assert said & {"fooled", "still right", "wrong before, too", "right", "not known"} == {verdict}


def test_photos_are_asked_for_one_by_one() -> None:
    asked: list[str] = []
    told = document()
    told["attacks"][0]["images"] = [image("a.jpg", {"adversarial": f"{place}"}) for place in range(50)]
    pieces = render(told, lambda path: asked.append(path))  # type: ignore[func-returns-value]

    next(pieces)
    early = len(asked)
    assert sum(1 for _ in pieces) > 10
    assert early < 10
    assert asked == [str(place) for place in range(50)]


def test_the_heat_maps_colours_go_by_the_loss_before_it_is_scaled() -> None:
    shown = heat_map(matrix(cell(0.01), cell(0.1), cell(10.0), cell(None)))

    steps = [[one.step for one in row.cells if one] for row in shown.rows]
    assert steps[0] == [1, 1]
    assert steps[2] == [STEPS, STEPS]
    assert steps[3] == [0, 0]
    assert 1 < steps[1][0] < STEPS
    assert [one.loss for one in shown.rows[0].cells if one] == ["10.00", "0.0100"]
    assert "n = 1,000 attacked and 1,000 natural images" in shown.caption
    assert "PGD-100" in shown.caption
    assert "epsilon 0.3" in shown.caption
    assert "times 1000, as in the paper" in shown.caption


def test_a_missing_cell_is_said_to_be_missing() -> None:
    told = matrix(cell(1.0))
    del told["rows"][0]["cells"]["standard"]

    assert "not measured" in page_of({"matrices": [told]})


def test_a_line_breaks_where_a_run_diverged_and_stays_on_the_canvas() -> None:
    points = [(0, 1.0), (1, 0.5), (2, None), (3, 0.25), (4, 5.0)]
    drawn = chart("c", "t", linear("step", range(5)), shares("accuracy"), [Series("a", 0, points)], [])

    path = drawn.lines[0].path
    assert path.count("M") == 2
    places = [tuple(map(float, place.split())) for place in re.split("[ML]", path) if place]
    assert all(0 <= across <= 460 and 0 <= down <= 280 for across, down in places)
    assert places[0][1] < places[1][1] < places[2][1]  # the canvas counts downwards
    assert drawn.table == [("a", ["100.00 %", "50.00 %", "50.00 %", "25.00 %", "500.00 %"])]


def test_losses_far_apart_stand_on_a_logarithmic_axis() -> None:
    assert losses("loss", [0.01, 2.0]).logarithmic
    assert not losses("loss", [1.0, 2.0]).logarithmic
    assert losses("loss", []).high > 0


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear_parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear_parts[0] + 0.7152 * linear_parts[1] + 0.0722 * linear_parts[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


COLOURS = {name: pair for name, *pair in re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", CSS)}
TEXTS = [(ink, on) for ink in ("ink", "muted", "link", "right", "wrong") for on in ("page", "surface")]
TEXTS += [(f"h{step}-ink", f"h{step}") for step in range(STEPS + 1)]
LINES = [(f"s{style}", "surface") for style in range(8)]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("ink", "on"), TEXTS)
def test_text_stands_out_from_what_it_is_on(ink: str, on: str, theme: int) -> None:
    assert contrast(COLOURS[ink][theme], COLOURS[on][theme]) >= 4.5


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("line", "on"), [*LINES, ("bar", "trough"), ("right", "trough")])
def test_lines_and_bars_stand_out(line: str, on: str, theme: int) -> None:
    wanted = 2.5 if line == "bar" else 3.0  # the value stands beside every bar
    assert contrast(COLOURS[line][theme], COLOURS[on][theme]) >= wanted


def test_every_colour_is_one_of_those_that_were_looked_at() -> None:
    rules = CSS.split("}", 1)[1]
    assert set(re.findall(r"#[0-9a-f]{3,8}\b", rules)) <= {"#ffffff"}  # the divider, which has a dark rim


def test_the_templates_travel_with_the_package() -> None:
    project = Path(__file__).parent.parent / "pyproject.toml"

    assert '"latcli.reporting.page" = ["templates/*"]' in project.read_text(encoding="utf-8")


def test_data_in_the_page_is_json_of_nothing_but_base64() -> None:
    files: dict[str, str | None] = {kind: kind for kind in ("adversarial", "difference", "mask")}
    blocks = re.findall(
        r'<script type="application/json">(.*?)</script>', page_of(document(files=files), attack_files())
    )

    assert len(blocks) == 1
    assert all(base64.b64decode(webp, validate=True)[8:12] == b"WEBP" for webp in json.loads(blocks[0]).values())
