"""Every model's score on every task, seed by seed."""

from __future__ import annotations

from eval.report.page import Page, Section


def section(page: Page) -> Section:
    models = page.report.models
    rows = [(task, role, [model.tasks[task].about for model in models]) for task, role in page.report.roles.items()]
    return page.section("scores", "Every score, every seed", fold=True, models=models, rows=rows)
