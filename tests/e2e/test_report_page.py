"""The page in a real browser: nothing is requested, nothing a model wrote runs, every figure is drawn, light, dark
and on a phone."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "unit" / "eval_report"))
from synthetic_report import write

from eval.report import build_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
    with playwright.sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    return build_report(write(folder / "cells"), folder / "out").page


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_page_in_chromium(browser, page_file, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(page_file.as_uri())
    page.wait_for_function("document.querySelectorAll('.figure').length > 5")
    page.wait_for_function("[...document.querySelectorAll('.figure')].every((place) => place.querySelector('svg'))")
    for fold in page.query_selector_all("details:not([open]) > summary"):
        fold.click()
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert complaints == []
    assert page.evaluate("window.attacked") is None
    assert "<script>window.attacked" in page.inner_text("main")  # shown as text
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # no sideways scrolling
    page.close()


def test_arms_keep_their_colour_in_tables_and_figures(browser, page_file):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(page_file.as_uri())
    page.wait_for_selector(".figure svg path")
    colour = "(element) => getComputedStyle(element).fill"
    key = page.eval_on_selector(".keys .arm:nth-child(2) g", colour)
    fills = page.eval_on_selector_all("#figure-0 svg path", f"(all) => all.map({colour})")
    assert key == "rgb(0, 114, 178)" and key in fills
    page.close()
