"""The report's page in a real Chromium, wide and narrow, light and dark: it works, is named, and asks nobody."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from page_store import seen

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

RunLatcli = Callable[..., subprocess.CompletedProcess[str]]

NAMES = ["photos/<img src=x onerror=alert(1)>.jpg", "photos/hen.jpg", "photos/kite.jpg", "photos/snail.jpg"]

#: Every control's name as a screen reader would say it, and what has none.
NAMELESS = """() => [...document.querySelectorAll("a, button, input, summary, [role=region], nav, img, svg[role=img]")]
    .filter((e) => !e.closest("[hidden]") && !(e.getAttribute("aria-label") || e.textContent.trim() || e.alt
        || e.closest("label")?.textContent.trim()
        || (e.getAttribute("aria-labelledby") || "").split(" ").some((id) => document.getElementById(id)?.textContent)))
    .map((e) => e.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
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
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("browser") / "runs"
    return folder, seen(folder, NAMES)


@pytest.fixture
def file(run_latcli: RunLatcli, store: tuple[Path, dict[str, str]], tmp_path: Path) -> Path:
    page = tmp_path / "report.html"
    done = run_latcli("report", "--paper", "--html", page, "--store", store[0])
    assert done.returncode == 0, done.stderr
    return page


@pytest.mark.slow
def test_the_page_works_in_a_browser(browser: Browser, file: Path, store: tuple[Path, dict[str, str]]) -> None:
    for width, height in ((1280, 900), (390, 844)):
        for theme in ("light", "dark"):
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
            page = context.new_page()
            heard: list[str] = []
            page.on("console", lambda message, heard=heard: heard.append(message.text))
            page.on("pageerror", lambda error, heard=heard: heard.append(str(error)))
            page.on("dialog", lambda dialog, heard=heard: (heard.append("a dialog"), dialog.dismiss()))
            asked: list[str] = []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(file.as_uri())
            look_at(page, store[1], theme)
            assert heard == []
            assert [url for url in asked if url != file.as_uri() and not url.startswith("data:")] == []
            context.close()


def look_at(page: Page, ids: dict[str, str], theme: str) -> None:
    assert page.get_by_text("The pictures unfold with JavaScript").is_hidden()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(NAMELESS) == []
    compare(page, f"photo-{ids['seen']}-1")
    switch_theme(page, theme)
    page.goto(f"{page.url.partition('#')[0]}#run-{ids['evaluation']}")
    assert page.locator(f"[id='run-{ids['evaluation']}']").get_attribute("open") is not None
    page.locator("details").evaluate_all("all => all.forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def compare(page: Page, id: str) -> None:
    card = page.locator(f"[id='{id}']")
    card.scroll_into_view_if_needed()
    loaded = "e => e.complete && e.naturalWidth === 96"
    for side in ("before", "after"):
        page.wait_for_function(f"id => ({loaded})(document.getElementById(id).querySelector('.{side}'))", arg=id)
    slider = card.get_by_role("slider", name="Before and after, <img src=x onerror=alert(1)>.jpg")
    slider.focus()
    shown = clip(page, id)
    page.keyboard.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext") == "49 % before, 51 % after"
    page.keyboard.press("Home")
    assert slider.input_value() == "0"
    assert clip(page, id) != shown
    for name in ("mask", "difference"):
        box = card.locator(f"[data-toggle={name}]")
        box.focus()
        page.keyboard.press("Space")
        assert card.locator(f"img.{name}").is_visible()
        page.wait_for_function(f"id => ({loaded})(document.getElementById(id).querySelector('img.{name}'))", arg=id)


def clip(page: Page, id: str) -> Any:
    return page.evaluate("id => getComputedStyle(document.getElementById(id).querySelector('.before')).clipPath", id)


def switch_theme(page: Page, theme: str) -> None:
    button = page.get_by_role("button", name="Dark theme")
    ground = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(ground)
    assert button.get_attribute("aria-pressed") == str(theme == "dark").lower()
    button.press("Enter")
    assert button.get_attribute("aria-pressed") == str(theme != "dark").lower()
    assert page.evaluate(ground) != before


@pytest.mark.slow
def test_far_pictures_stay_folded_and_print_unfolds_them(
    browser: Browser, file: Path, store: tuple[Path, dict[str, str]]
) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 300})
    page.goto(file.as_uri())
    unfolded = "document.querySelectorAll('.card img[src]').length"

    assert page.evaluate(unfolded) == 0
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(unfolded) == 2 * len(NAMES)
    page.close()


@pytest.mark.slow
def test_without_scripts_all_but_the_pictures_is_there(browser: Browser, file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())

    assert page.get_by_text("The pictures unfold with JavaScript").is_visible()
    assert page.locator("table.matrix").first.is_visible()
    assert page.locator(".controls").first.is_hidden()
    context.close()
