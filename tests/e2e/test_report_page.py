"""The page in a real browser: nothing is requested, nothing a model wrote runs, every figure is drawn and exported,
the items can be filtered by keyboard, in light, dark and on a phone."""

import csv
import io
import json
import re
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

sys.path.append(str(Path(__file__).parents[1] / "unit" / "eval_report"))
from synthetic_report import write

from eval.report import build_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
PATIENCE = 120_000  # milliseconds; waiting ends as soon as the page is ready, which takes long on a busy machine
SCREENS = [(1280, "light"), (1280, "dark"), (390, "light")]
NASTY = [
    'a, "b"',
    "two\nlines",
    "=1+1",
    "@cmd",
    "ä → ü",
    "x_1 & 50 % of {y} \\ ^~ #$ <b>|",
    "−1,234.5",
    "-0.5 to 1",
    "",
    "007",
]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
    with playwright.sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A report with every section that needs no declaration: curves, evaluations along training, reward models."""
    folder = tmp_path_factory.mktemp("page")
    report = write(folder / "cells", items=150)
    start = {model.seed: model for model in report.models if model.stage == "sft"}
    models = [
        replace(
            model, snapshots=[replace(model, step=1, evaluation=start[model.seed].evaluation), replace(model, step=200)]
        )
        if model.stage == "ppo"
        else model
        for model in report.models
    ]
    rewards = [
        {"stage": "reward", "seed": seed, "validation_pairs": 200, "validation_accuracy": 0.8} for seed in (0, 1, 2)
    ]
    return build_report(replace(report, models=models, reward_models=rewards), folder / "out")


@pytest.fixture(scope="module")
def loaded(browser, results):
    """(pages by width and scheme, what any of them asked for or complained of)."""
    pages, complaints = {}, []
    for width, scheme in SCREENS:
        pages[width, scheme] = page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda r: r.url.startswith(("file:", "data:", "blob:")) or complaints.append(r.url))
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(results.page.as_uri())
        all_drawn(page)
    return pages, complaints


@pytest.fixture
def opened(loaded):
    """open(width, scheme) -> the page with all figures drawn; no test may make it ask for anything or complain."""
    pages, complaints = loaded
    yield lambda width=1280, scheme="light": pages[width, scheme]
    assert complaints == []


def all_drawn(page) -> None:
    """Wait until every figure that is in sight is drawn and offers its export."""
    waiting = "(all) => all.filter((one) => !one.closest('main details:not([open])')).length"
    page.locator(".drawing + .tools").nth(page.eval_on_selector_all("figure", waiting) - 1).wait_for()


def saved(page, button) -> str:
    """What a click on an export button downloads."""
    with page.expect_download() as download:
        button.click()
    return Path(download.value.path()).read_bytes().decode("utf-8")


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_page_in_chromium(opened, width, scheme):
    page = opened(width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
    all_drawn(page)
    page.click("#items-more")
    assert len(page.query_selector_all(".drawing svg")) >= 10
    assert page.evaluate("window.attacked") is None
    assert "<script>window.attacked" in page.inner_text("main")  # shown as text
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # no sideways scrolling
    page.wait_for_timeout(50)


def test_text_that_escaped_escaping_would_not_run(browser, results):
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(results.page.as_uri())
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x: onerror=\"window.attacked = 1\">')")
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.attacked = 2'}))"
    )
    page.wait_for_timeout(100)
    assert page.evaluate("window.attacked") is None
    page.close()


def test_arms_keep_their_colour_in_tables_and_figures(opened):
    page = opened()
    colour = "(element) => getComputedStyle(element).fill"
    key = page.eval_on_selector("#plane .keys .arm:nth-child(2) g", colour)
    fills = page.eval_on_selector_all("#figure-plane svg path", f"(all) => all.map({colour})")
    assert key == "rgb(0, 114, 178)" and key in fills


def test_the_reader_chooses_dark_by_keyboard_and_it_stays(opened):
    page = opened()
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(ground)
    page.focus("#theme")
    page.keyboard.press("Enter")
    dark = page.evaluate(ground)
    assert light == "rgb(255, 254, 251)" and dark == "rgb(25, 24, 22)"
    page.reload()
    assert page.evaluate(ground) == dark and page.inner_text("#theme") == "Light"
    page.click("#theme")
    assert page.evaluate(ground) == light
    all_drawn(page)


def forgotten(results, task: str, seed: int) -> set[int]:
    """From the files alone: the documents that SFT had right and PPO wrong."""
    rows = pq.read_table(results.page.parent / "items.parquet").to_pylist()
    rows = [row for row in rows if (row["task"], row["seed"], row.get("step")) == (task, seed, None)]
    before = {row["doc_id"]: row["score"] for row in rows if row["stage"] == "sft"}
    return {row["doc_id"] for row in rows if row["stage"] == "ppo" and row["score"] < before[row["doc_id"]]}


def test_items_are_filtered_by_keyboard(opened, results):
    page = opened()
    count = page.locator("#items-count")
    page.focus("#items-filters [name=pair]")  # the declared contrast: PPO against SFT
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")  # 1→0
    page.keyboard.press("Tab")
    page.keyboard.type("lab_so")
    page.keyboard.press("Tab")
    for _ in range(2):
        page.keyboard.press("ArrowDown")  # all, 0, 1
    expected = forgotten(results, "lab_sorting", seed=1)
    assert expected and count.inner_text().startswith(f"{len(expected)} found")
    page.keyboard.press("Tab")
    page.keyboard.type("VELLMAR")
    matching = {doc for doc in expected if doc % 8 == 0}  # the synthetic places take turns
    assert count.inner_text().startswith(f"{len(matching)} found")
    for _ in "VELLMAR":
        page.keyboard.press("Backspace")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.matches('#items-list > article:first-child')")
    assert "lab_sorting · seed 1 · 1→0" in page.evaluate("document.activeElement.textContent")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.matches('#items-list > article:nth-child(2)')")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "text"


def test_tables_are_saved_as_csv_and_latex(opened, results):
    page = opened()
    arm = next(arm for arm in results.arms if (arm.reference, arm.new) == ("sft", "ppo"))
    first = page.locator("#comparisons details").first
    rows = list(csv.reader(io.StringIO(saved(page, first.get_by_text("CSV")))))
    assert rows[0] == ["task", "sft", "ppo", "change", "from", "to", "p_adj", "n", "detectable", "verdict"]
    table = {row[0]: row for row in rows[1:]}
    for row in (*arm.groups, *arm.rows):
        numbers = [row.reference_value, row.new_value, row.delta, *row.estimate.ci95, row.p_adjusted, row.n]
        assert [float(cell) for cell in table[row.task][1:8]] == numbers  # in full, not as rounded on the page
        assert table[row.task][9] == str(row.verdict)
    latex = saved(page, first.get_by_text("LaTeX")).splitlines()
    assert latex[:2] == ["\\begin{tabular}{lrrrrrrrl}", "\\toprule"] and latex[-2:] == [
        "\\bottomrule",
        "\\end{tabular}",
    ]
    assert len(latex) == len(rows) + 5 and all(
        line.endswith(" \\\\") and line.count(" & ") == 8 for line in latex[4:-2]
    )
    assert any(line.startswith("lab\\_facts & ") and "$-$" in line for line in latex)


def test_csv_and_latex_escape_whatever_a_cell_holds(opened):
    page = opened()
    line = page.evaluate("(cells) => cells.map(csvField).join(',')", NASTY)
    read = next(csv.reader(io.StringIO(line, newline="")))
    assert read == [*NASTY[:2], "'=1+1", "'@cmd", *NASTY[4:6], "-1234.5", "'-0.5 to 1", "", "007"]
    assert page.evaluate("latexField", NASTY[5]) == (
        "x\\_1 \\& 50 \\% of \\{y\\} \\textbackslash{} \\textasciicircum{}\\textasciitilde{} \\#\\$ "
        "\\textless{}b\\textgreater{}\\textbar{}"
    )


def test_figures_are_saved_as_svg_that_stands_alone(opened):
    page = opened(scheme="dark")
    drawing = saved(page, page.locator("#figure-plane").get_by_text("SVG"))
    root = ElementTree.fromstring(drawing)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and len(list(root.iter())) > 30
    assert "var(" not in drawing and "currentColor" not in drawing
    assert (
        "rgb(0, 114, 178)" in drawing and "rgb(86, 180, 233)" not in drawing
    )  # the light page's blue, seen from the dark
    assert "gain on the target, points" in "".join(root.itertext())


def test_every_figure_has_its_table(opened, results):
    page = opened()
    page.evaluate("document.querySelectorAll('main details').forEach((fold) => { fold.open = true; })")
    all_drawn(page)
    about = "(all) => all.map((one) => [one.id, one.querySelectorAll('tbody tr').length])"
    figures = page.eval_on_selector_all("figure", about)
    assert len(figures) >= 10 and all(rows > 0 for _, rows in figures)
    exports = page.eval_on_selector_all("figure .tools", "(all) => all.map((one) => one.textContent)")
    assert exports == ["SVG", "CSVLaTeX"] * len(figures)
    specs = re.findall(r'data-figure="([^"]+)">(\{.*?\})</script>', results.page.read_text(), re.S)
    assert {f"figure-{name}" for name, _ in specs} == {name for name, _ in figures}
    assert all(json.loads(spec)["$schema"] for _, spec in specs)
