"""The report's page in a real Chromium, wide and narrow, light and dark: it works, is named, and asks nobody."""

import os
import shutil

import pytest
import sample_documents as sample

from latcli.reporting.page import render

pytestmark = pytest.mark.slow

WILD = "<img src=x onerror=alert(1)>.jpg"
RIGHT, WRONG = ("hen", 0.9, 0.9, 1), ("cock", 0.9, 0.01, 30)
FILES = {kind: kind for kind in ("adversarial", "difference", "mask")}
CARDS = {
    name: sample.photo(f"photos/{name}", label, before, after, altered_percent=altered, files=FILES)
    for name, label, before, after, altered in (
        (WILD, "hen", RIGHT, WRONG, 40.0),
        ("hen.jpg", "hen", RIGHT, RIGHT, 20.0),
        ("kite.jpg", '"cock" </script>', WRONG, WRONG, 30.0),
    )
}

#: Every control's name as a screen reader would say it, and what has none.
NAMELESS = """() => [
    ...document.querySelectorAll("a, button, input, select, summary, [role=region], nav, img, svg[role=img]")
].filter((e) => !e.closest("[hidden]") && !(e.getAttribute("aria-label") || e.textContent.trim() || e.alt
    || e.closest("label")?.textContent.trim()
    || (e.getAttribute("aria-labelledby") || "").split(" ").some((id) => document.getElementById(id)?.textContent)))
.map((e) => e.outerHTML.slice(0, 120))"""
NO_WIDER = "document.documentElement.scrollWidth <= innerWidth"


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on PATH (chromium, chromium-browser or google-chrome): the page was not looked at")
    from playwright.sync_api import sync_playwright

    alone = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=alone)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    page = tmp_path_factory.mktemp("browser") / "report.html"
    page.write_text("".join(render(sample.report(*CARDS.values()), sample.attack_files().get)), encoding="utf-8")
    return page


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_the_page_works_in_a_browser(browser, file, width, height, theme):
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
    page = context.new_page()
    heard = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("dialog", lambda dialog: (heard.append("a dialog"), dialog.dismiss()))
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())

    assert page.evaluate(NO_WIDER)
    assert page.evaluate(NAMELESS) == []
    assert page.evaluate("[...document.querySelectorAll('.chart img')].every((e) => e.complete && e.naturalWidth > 0)")
    see_the_background_column(page, width)
    compare(page)
    choose(page)
    switch_theme(page, theme)
    page.goto(f"{file.as_uri()}#run-{sample.RUN}")
    assert page.locator(f"[id='run-{sample.RUN}']").get_attribute("open") is not None
    page.locator("details").evaluate_all("all => all.forEach((one) => { one.open = true; })")
    assert page.evaluate(NO_WIDER)
    assert heard == []
    assert [url for url in asked if not url.startswith((file.as_uri(), "data:"))] == []
    context.close()


def compare(page):
    id = f"photo-{sample.RUN}-1-1"
    card = page.locator(f"[id='{id}']")
    card.scroll_into_view_if_needed()
    loaded = "e => e.complete && e.naturalWidth === 96"
    for side in ("before", "after"):
        page.wait_for_function(f"id => ({loaded})(document.getElementById(id).querySelector('.{side}'))", arg=id)
    slider = card.get_by_role("slider", name=f"Before and after, {WILD}")
    slider.focus()
    clip = "id => getComputedStyle(document.getElementById(id).querySelector('.before')).clipPath"
    shown = page.evaluate(clip, id)
    page.keyboard.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext") == "49 % before, 51 % after"
    page.keyboard.press("Home")
    assert slider.input_value() == "0"
    assert page.evaluate(clip, id) != shown
    for name in ("mask", "difference"):
        card.locator(f"[data-toggle={name}]").focus()
        page.keyboard.press("Space")
        assert card.locator(f"img.{name}").is_visible()
        page.wait_for_function(f"id => ({loaded})(document.getElementById(id).querySelector('img.{name}'))", arg=id)


def choose(page):
    """Show and sort photos by what their cards say."""

    def shown():
        names = page.locator(".card:not([hidden]) h4")
        return list(names.evaluate_all("all => all.map((one) => one.firstChild.textContent.trim())"))

    assert shown() == list(CARDS)
    page.locator("select[data-filter=kind]").select_option("fooled")
    assert shown() == [WILD]
    assert page.get_by_text("1 of 3 shown").is_visible()
    page.locator("select[data-filter=kind]").select_option("")
    page.locator("select[data-filter=label]").select_option('"cock" </script>')
    assert shown() == ["kite.jpg"]
    page.locator("select[data-filter=label]").select_option("")
    for order, names in (("altered", ["hen.jpg", "kite.jpg", WILD]), ("name", [WILD, "hen.jpg", "kite.jpg"])):
        page.locator("select[data-sort]").select_option(order)
        assert shown() == names
    page.locator("select[data-sort]").select_option("")
    assert shown() == list(CARDS)


def switch_theme(page, theme):
    button = page.get_by_role("button", name="Dark theme")
    ground = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(ground)
    assert button.get_attribute("aria-pressed") == str(theme == "dark").lower()
    button.press("Enter")
    assert button.get_attribute("aria-pressed") == str(theme != "dark").lower()
    assert page.evaluate(ground) != before


def see_the_background_column(page, width):
    boxes = page.locator("table.matrix tbody tr td:last-child").evaluate_all(
        "all => all.map((one) => { const box = one.getBoundingClientRect(); return [box.left, box.right]; })"
    )
    assert len(boxes) == 3
    assert all(0 <= left < right <= width for left, right in boxes)
    cut_off = "all => all.filter((one) => one.scrollWidth > one.parentElement.clientWidth).length"
    assert page.locator("table.matrix td > span").evaluate_all(cut_off) == 0


def test_on_paper_and_without_scripts_every_photo_is_there(browser, file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    page.emulate_media(media="print")
    assert page.locator("table.matrix").first.is_visible()
    assert page.locator(".controls").first.is_hidden()
    for side in ("before", "after"):
        boxes = [one.bounding_box() for one in page.locator(f".card img.{side}").all()]
        assert len(boxes) == len(CARDS)
        assert all(box and box["width"] > 20 for box in boxes)
    context.close()
