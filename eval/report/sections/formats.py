"""Plain and chat format side by side: what is forgotten, and what only a new format hides."""

from __future__ import annotations

from typing import Any

from eval import words
from eval.formats import MEANING, FormatReading
from eval.report.charts import Table
from eval.report.page import Page, Section

COLUMNS = {
    "new": "model",
    "reference": "against",
    "task": "task",
    "own": "as before",
    "own_change": "change",
    "own_interval": "95 % interval",
    "other": "second format",
    "other_change": "change",
    "across": "second format against as before",
    "across_interval": "95 % interval",
    "reading": "reading",
}


def section(page: Page) -> Section | None:
    readings: list[FormatReading] = list(page.derived.get("formats", ()))
    if not readings:
        return None
    shown = {(arm.reference, arm.new) for arm in page.ordered}
    rows = [_row(reading) for reading in readings if (reading.reference, reading.new) in shown]
    told = {each.reading for each in readings}
    meanings = [meaning for reading, meaning in MEANING.items() if reading in told]
    return page.section(
        "formats", "Forgotten, or hidden by the format", table=Table.of(rows, COLUMNS), meanings=meanings
    )


def _row(reading: FormatReading) -> dict[str, Any]:
    scale = 100.0  # tasks that are asked have scores, and scores are shown in points
    return {
        "new": reading.new,
        "reference": reading.reference,
        "task": f"{reading.own} / {reading.other.rpartition('@')[2]}",
        "own": reading.own_values[1] * scale,
        "own_change": reading.own_change.value * scale,
        "own_interval": words.interval("acc", reading.own_change.ci95),
        "other": reading.other_values[1] * scale,
        "other_change": reading.other_change.value * scale,
        "across": reading.across.value * scale,
        "across_interval": words.interval("acc", reading.across.ci95),
        "reading": reading.reading,
    }
