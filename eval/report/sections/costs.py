"""What every model took to make."""

from __future__ import annotations

from eval.report.page import Page, Section

COLUMNS = {"train_tokens": "training tokens", "steps": "steps", "seconds": "seconds"}


def section(page: Page) -> Section:
    return page.section("costs", "Tokens, steps and seconds of every stage and seed", fold=True, columns=COLUMNS)
