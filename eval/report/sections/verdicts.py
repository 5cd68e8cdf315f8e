"""How a verdict is reached, in words, with the margins of this recipe."""

from __future__ import annotations

from eval.report.page import Page, Section


def section(page: Page) -> Section:
    return page.section("verdicts", "How the verdicts are reached", fold=True)
