"""Right before, right after: how often an item was kept, forgotten, learned or never known."""

from __future__ import annotations

from eval.report.page import Page, Section


def section(page: Page) -> Section | None:
    tables = [(arm, rows) for arm in page.everything if (rows := [row for row in arm.rows if row.transitions])]
    return page.section("transitions", "Kept, forgotten, learned", tables=tables) if tables else None
