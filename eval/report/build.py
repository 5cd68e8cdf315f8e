"""`build_report`: compare, write `results.json` and `items.parquet`, lay out the page."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path

from markupsafe import Markup

from eval.compare import compare_all
from eval.comparison import Results
from eval.derived import derived
from eval.report.page import Page, Section, as_json, environment
from eval.report.sections import (
    along_training,
    classification,
    comparisons,
    costs,
    curves,
    divergence,
    flips,
    forest,
    formats,
    frontier,
    items,
    overoptimisation,
    plane,
    provenance,
    quality,
    relearning,
    reward_models,
    scores,
    sequences,
    summary,
    transitions,
    verdicts,
    win_rates,
)
from eval.results import ReportInput, all_items, atomically, results_json, write_results

SECTIONS: tuple[Callable[[Page], Section | None], ...] = (
    summary.section,
    plane.section,
    frontier.section,
    divergence.section,
    sequences.section,
    relearning.section,
    win_rates.section,
    forest.section,
    comparisons.section,
    classification.section,
    transitions.section,
    formats.section,
    quality.section,
    overoptimisation.section,
    reward_models.section,
    along_training.section,
    curves.section,
    flips.section,
    items.section,
    scores.section,
    costs.section,
    verdicts.section,
    provenance.section,
)
SCRIPTS = ("figures.js", "export.js", "items.js", "page.js")


def build_report(report: ReportInput, folder: Path) -> Results:
    """Write `results.json`, `items.parquet` and `report.html` into `folder`, each atomically, and return the
    comparisons.

    SuiteError when two models cannot be compared: see `eval/pairing.py`.
    """
    arms = tuple(compare_all(report))
    found = derived(report)
    data = results_json(report, [row for arm in arms for row in (*arm.rows, *arm.groups)], **found)
    write_results(data, all_items(report), folder)
    page = folder / "report.html"
    with atomically(page) as path:
        path.write_text(render(Page(report, arms, data, found)), encoding="utf-8")
    return Results(report.recipe, report.question, arms, data, page, tuple(report.warnings))


def render(page: Page) -> str:
    """The page as one string of HTML, asking nothing of the network. Only its own scripts may run: their hashes are in its
    policy, so even text that escaped escaping would stay text."""
    sections = [made for section in SECTIONS if (made := section(page))]
    scripts = [_bundle(), "\n".join(_asset(f"scripts/{name}") for name in SCRIPTS)]
    theme = _asset("scripts/theme.js")
    context = {
        "report": page.report,
        "sections": sections,
        "figures": [(chart.id, as_json(chart.spec)) for section in sections for chart in section.charts],
        "style": Markup(_asset("style.css")),
        "theme": Markup(theme),
        "scripts": [Markup(script) for script in scripts],
        "allowed": " ".join(_hash(script) for script in (theme, *scripts)),
    }
    return environment().get_template("template.html").render(context)


@cache
def _bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, from the wheel: nothing is fetched."""
    import vl_convert

    return vl_convert.javascript_bundle().replace("</script", "<\\/script")  # pyright: ignore[reportCallIssue] (its stub is wrong)


@cache
def _asset(name: str) -> str:
    return resources.files("eval.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _hash(script: str) -> str:
    """A source expression of the Content Security Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
