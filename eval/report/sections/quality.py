"""Calibration of multiple choice and diversity of sampled answers, arm by arm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from eval.quality import MEASURES, Quality, QualityChange
from eval.report.charts import Chart, Spec, Table, by_arm, finish, tips
from eval.report.page import Page, Section

CHANGES = {
    "new": "model",
    "reference": "against",
    "task": "task",
    "measure": "measure",
    "delta": "change",
    "low": "from",
    "high": "to",
    "ci_method": "interval",
}
BINS = {"arm": "arm", "x": "confidence", "y": "right", "n": "items"}


def section(page: Page) -> Section | None:
    measured: list[Quality] = list(page.derived.get("quality", ()))
    if not measured:
        return None
    charts = [chart] if (chart := _reliability(page, measured)) else []
    changes: list[QualityChange] = list(page.derived.get("quality_changes", ()))
    shown = {(arm.reference, arm.new) for arm in page.ordered}
    rows = [_change(change) for change in changes if (change.reference, change.new) in shown]
    table = Table.of(rows, CHANGES) if rows else None
    values = _values(measured)
    return page.section("quality", "Calibration and diversity", charts=charts, fold=True, values=values, changes=table)


def _values(measured: Sequence[Quality]) -> Table:
    """One row for each task and measure, one column for each arm."""
    arms = list(dict.fromkeys(each.stage for each in measured))
    cells: dict[tuple[str, str], dict[str, float]] = {}
    for each in measured:
        cells.setdefault((each.task, each.measure), {})[each.stage] = each.value
    rows = [
        (task, MEASURES[measure][0], *(by_stage.get(arm) for arm in arms))
        for (task, measure), by_stage in cells.items()
    ]
    return Table(("task", "measure", *arms), tuple(rows))


def _change(change: QualityChange) -> dict[str, Any]:
    low, high = change.ci
    return change.as_json() | {"measure": MEASURES[change.measure][0], "low": low, "high": high}


def _reliability(page: Page, measured: Sequence[Quality]) -> Chart | None:
    """Confidence against accuracy, over all tasks of an arm together."""
    rows = [
        {"arm": arm, "x": confidence, "y": accuracy, "n": n}
        for arm in dict.fromkeys(each.stage for each in measured)
        for confidence, accuracy, n in _together([each for each in measured if each.stage == arm])
    ]
    if not rows:
        return None
    return Chart("reliability", "Confidence and accuracy of multiple choice", _drawn(page, rows), Table.of(rows, BINS))


def _together(measured: Sequence[Quality]) -> list[tuple[float, float, int]]:
    """(mean confidence, accuracy, items) of each bin."""
    bins: dict[float, list[Any]] = {}
    for each in measured:
        for one in each.bins:
            bins.setdefault(one.low, []).append(one)
    found = []
    for low in sorted(bins):
        n = sum(one.n for one in bins[low])
        means = (sum(getattr(one, key) * one.n for one in bins[low]) / n for key in ("confidence", "accuracy"))
        found.append((*means, n))
    return found


def _drawn(page: Page, rows: list[dict[str, Any]]) -> Spec:
    color, shape = by_arm(list(dict.fromkeys(row["arm"] for row in rows)), page.looks)
    unit = alt.Scale(domain=[0, 1])
    x = alt.X("x:Q", title="confidence in the chosen answer", scale=unit)
    y = alt.Y("y:Q", title="share that is right", scale=unit)
    ends = alt.Data(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}])
    even = alt.Chart(ends).mark_line(color="currentColor", opacity=0.4, strokeDash=[4, 3]).encode(x, y)
    data = alt.Chart(alt.Data(values=rows))
    lines = data.mark_line(strokeWidth=1.2, opacity=0.7).encode(x, y, color)
    tooltip = ["arm:N", *tips({"x": "confidence", "y": "right"}, ".2f"), alt.Tooltip("n:Q", title="items", format=",")]
    marks = data.mark_point(size=60, filled=True, opacity=1).encode(x, y, color, shape, tooltip=tooltip)
    return finish(alt.layer(even, lines, marks), height=260)
