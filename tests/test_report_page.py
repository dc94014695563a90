"""The report's page: nothing harmful, nothing from outside, pictures that are exact, colours that can be read."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from importlib import resources

import numpy as np
import pytest
import sample_documents as sample
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from report_store import WILD
from sample_documents import attack_files

from latcli.reporting.figures import amplified_difference, difference_gain
from latcli.reporting.page import change, original, pictures, render
from latcli.reporting.table import SHADES

CSS = resources.files("latcli.reporting").joinpath("templates", "page.css").read_text(encoding="utf-8")
FILES = {kind: kind for kind in ("adversarial", "difference", "mask")}


class Seen(HTMLParser):
    """Every element, every attribute, and the text outside scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.texts).split())


def page_of(document, files=None):
    return "".join(render(document, (files or {}).get))


def named(name):
    """A report in which everything is called so."""
    photo = sample.photo(name, name, (name, 0.9, 0.9, 1), (name, 0.9, 1e-9, 9), notes=(name,))
    listed = sample.run_row(command=name, config={name: name}, argv=["latcli", name])
    return sample.report(
        photo, store=name, matrices=[sample.matrix({name: sample.FIGURE_2["natural"]}, dataset=name, warnings=[name])],
        runs=[listed], training=[sample.trained(regime=name)],
        left_out=[{"run": name, "command": "train", "status": "crashed", "why": name}],
        faults=[{"run": name, "name": name, "fault": "changed", "detail": name}],
    )  # fmt: skip


def test_no_name_does_harm_wherever_it_stands():
    plain, wild = (Seen(page_of(named(one))) for one in ("hen.jpg", " ".join(WILD)))
    assert wild.tags == plain.tags
    assert [key for key, _ in wild.attributes] == [key for key, _ in plain.attributes]
    assert all(text.isprintable() for part in wild.texts for text in part.split("\n") if "--page" not in part)


def test_the_policy_allows_the_page_itself_and_nothing_else():
    text = page_of(sample.report())
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
    sources = {value for key, value in Seen(text).attributes if key == "src"}
    assert all(re.match("data:image/(svg[+]xml|webp);base64,", str(source)) for source in sources)
    assert "http://" not in text
    assert "https://" not in text


def test_sections_stand_only_where_there_is_something_to_show():
    everything, text = page_of(sample.report()), page_of(only_matrix())
    for page in (everything, text):
        assert re.findall(r'<section id="([^"]+)"', page) == re.findall(r'<li><a href="#([^"]+)"', page)
    assert re.findall(r'<section id="([^"]+)"', text) == ["matrix"]
    sections = re.findall(r'<section id="([^"]+)"', everything)
    assert sections == [*("matrix", "paper", "curves", "transfer", "reliance"), "photos", "training", "runs",
                        "not-shown"]  # fmt: skip


def only_matrix(**changed):
    return sample.nothing(sample.report(), matrices=[sample.matrix(**changed)])


def test_the_matrix_has_every_figure_and_says_what_is_missing():
    document = only_matrix()
    (matrix,) = document["matrices"]
    del matrix["rows"][0]["cells"]["background"]
    matrix["rows"][0]["cells"]["natural"] |= {"accuracy_low": 0.985, "accuracy_high": 0.996}
    text = page_of(document)
    for figure in ("41.40", "99.19 % [98.5, 99.6]", "★ 57.90 ± 2.00", "n = 10,000", "natural, same images"):
        assert figure in Seen(text).words
    assert text.count('class="heat h0"') == 1


def test_every_run_has_the_command_that_repeats_it_and_every_chart_its_words():
    text = page_of(sample.report())
    assert '<pre tabindex="0">latcli attack &#39;my photos&#39;</pre>' in text
    assert 'alt="Training loss, mnist. At the end: natural 00a0 0.0500."' in text


def test_a_card_explains_its_numbers():
    words = Seen(page_of(sample.report(sample.photo()))).words
    assert "object found by saliency; hen 0.50; 83 % of the classifier's evidence inside" in words
    for fact in ("p(right class) 0.931 before, 1.7e-04 after", "p(guess) 0.931 before, 0.998 after", "epsilon 8/255",
                 "rank 1 before, 11 after", "largest protected change 0", "PSNR 38.2 dB"):  # fmt: skip
        assert fact in words


def test_nobody_was_fooled_who_was_wrong_before():
    for before, after, verdict, kind in [
        (1, 997, "fooled", "fooled"),
        (1, 1, "still right", "held"),
        (3, 5, "already wrong before", "wrong"),
        (3, 1, "right", "held"),
    ]:
        document = sample.report(sample.photo())
        photo = document["attacks"][0]["images"][0]
        photo["clean"]["rank"], photo["adversarial"]["rank"] = before, after
        text = page_of(document)
        assert f'<span class="verdict {kind}">{verdict}</span>' in text
        assert f'data-kind="{kind}"' in text
        assert re.findall(r'data-(?:label|after)="([^"]+)"', text) == ["hen", "0.000169"]


def test_every_id_is_one_elements_alone_and_every_link_leads_to_one():
    document = sample.report(sample.photo(), attacks=[sample.attack(sample.photo(), sample.photo())] * 2)
    document["attacks"][1]["epsilon"] = 1 / 255
    attributes = Seen(page_of(document)).attributes
    ids = [value for key, value in attributes if key == "id"]
    assert len(ids) == len(set(ids))
    assert {value for key, value in attributes if key == "href"} <= {f"#{id}" for id in ids}


def test_smallest_epsilons_are_bars():
    photos = [sample.photo(f"{levels}.jpg", smallest_epsilon=levels / 255) for levels in (4, 1)]
    text = page_of(sample.report(*photos))
    assert "Smallest epsilon that fools" in text
    assert re.findall(r'class="value">(\d/255)</span>.*?width="([\d.]+)" height="4"/></svg>', text) == [
        ("1/255", "25.0"), ("4/255", "100.0")
    ]  # fmt: skip


def test_photos_are_asked_for_one_by_one():
    asked = []
    photos = [sample.photo(files={"adversarial": str(place)}) for place in range(50)]
    pieces = render(sample.report(*photos), lambda path: asked.append(path))
    next(pieces)
    assert len(asked) < 10
    assert sum(1 for _ in pieces) > 10
    assert asked == [str(place) for place in range(50)]


@given(st.integers(1, 255), st.integers(0, 2**32 - 1))
def test_a_difference_is_exact_up_to_a_change_of_127_levels_and_to_a_level_beyond(most, seed):
    drawn = np.random.default_rng(seed)
    before_HWC = drawn.integers(0, 256, (4, 4, 3)).astype(np.uint8)
    after_HWC = np.clip(before_HWC + drawn.integers(-most, most + 1, before_HWC.shape), 0, 255).astype(np.uint8)
    gain = difference_gain(most / 255)
    shown = amplified_difference(before_HWC, after_HWC, gain)
    wrong_HWC = original(after_HWC, change(shown, gain)).astype(int) - before_HWC
    assert np.abs(wrong_HWC).max() <= (0 if most <= 127 else 1)


def test_pictures_are_small_and_show_what_they_should():
    image = sample.attack(sample.photo(files=FILES))["images"][0]
    shown = pictures(image, attack_files().get, side=96)
    assert shown is not None
    read = {kind: Image.open(io.BytesIO(base64.b64decode(webp))) for kind, webp in shown.webp.items()}
    difference, tint = np.asarray(read["difference"].convert("L")), np.asarray(read["mask"].convert("RGBA"))

    assert {kind: one.size for kind, one in read.items()} == dict.fromkeys(
        ("after", "before", "difference", "mask"), (96, 64)
    )
    assert difference[26:44, 38:62].max() < 16  # nothing was changed on the object
    assert difference[:16].mean() > 100
    assert (tint[35, 50, 3], tint[5, 5, 3]) > (0, 0)
    assert tint[5, 5, 3] == 0
    smaller = pictures(image, attack_files().get, side=48)
    assert smaller is not None
    assert (smaller.width, smaller.height) == (48, 32)


def test_what_cannot_be_shown_is_named_and_pictures_are_nothing_but_base64():
    document = sample.report(sample.photo(files=FILES))
    text = page_of(document, attack_files())
    shown = re.findall(r'src="data:image/webp;base64,([^"]*)"', text)
    assert [base64.b64decode(webp, validate=True)[8:12] for webp in shown] == [b"WEBP"] * 4
    broken = attack_files() | {"mask": b"no picture"}
    assert "Not shown, since it cannot be read: the mask." in page_of(document, broken)
    assert ('class="frame"' in text, 'class="frame"' in page_of(document)) == (True, False)


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


COLOURS = {name: pair for name, *pair in re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", CSS)}
for step, (light, ink, dark, dark_ink) in enumerate(SHADES):
    COLOURS |= {f"h{step}": [light, dark], f"h{step}-ink": [ink, dark_ink]}
#: A colour, what it is on, and the least contrast; beside every bar stands its value.
PAIRS = [(ink, on, 4.5) for ink in ("ink", "muted", "link", "right", "wrong") for on in ("page", "surface")]
PAIRS += [(f"h{step}-ink", f"h{step}", 4.5) for step in range(len(SHADES))]
PAIRS += [("right", "trough", 3.0), ("bar", "trough", 2.5)]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_lines_and_bars_stand_out(theme):
    found = {(ink, on): contrast(COLOURS[ink][theme], COLOURS[on][theme]) for ink, on, _ in PAIRS}
    assert {(ink, on) for ink, on, least in PAIRS if found[ink, on] < least} == set()


def test_every_colour_is_one_of_those_that_were_looked_at():
    rules = CSS.split("}", 1)[1]
    assert set(re.findall(r"#[0-9a-f]{3,8}\b", rules)) <= {
        "#ffffff"
    }  # the divider, which has a dark rim, and paper below charts
