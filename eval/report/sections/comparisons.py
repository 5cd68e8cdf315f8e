"""Every pair of arms, task by task."""

from __future__ import annotations

from typing import Any

from eval import words
from eval.comparison import ArmComparison
from eval.report.page import Page, Section
from eval.report.sections.summary import bar_cell


def section(page: Page) -> Section | None:
    if not page.arms:
        return None
    comparisons = [_comparison(page, arm) for arm in page.everything]
    return page.section("comparisons", "Every comparison", comparisons=comparisons)


def _comparison(page: Page, arm: ArmComparison) -> dict[str, Any]:
    """The rows with their bars, and what was remarked about them."""
    rows = [*arm.groups, *arm.rows]
    return {
        "arm": arm,
        "rows": [bar_cell(row, rows, page.looks[arm.new]) for row in rows],
        "remarks": [f"{words.task_name(row.task)}: {text}" for row in rows for text in row.warnings],
        "kind": "contrast"
        if "contrast" in arm.kinds
        else "from the base"
        if "base" in arm.kinds
        else "from its parent",
    }
