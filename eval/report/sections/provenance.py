"""The recipe as it was run, and where its numbers come from."""

from __future__ import annotations

from eval.report.page import Page, Section
from eval.results import run_id


def section(page: Page) -> Section:
    report = page.report
    rows = {
        "run": run_id(report),
        "recipe digest": report.recipe_digest,
        "code": report.code_commit,
        "hardware": report.hardware,
    }
    return page.section(
        "provenance", "The recipe and where the numbers come from", fold=True, rows={**rows, **report.versions}
    )
