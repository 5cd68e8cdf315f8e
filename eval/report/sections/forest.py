"""The change of every task from the base, arm by arm, with its interval."""

from __future__ import annotations

from typing import Any

import altair as alt

from eval import words
from eval.comparison import TaskComparison
from eval.report.charts import Chart, Spec, Table, by_arm, finish, tips
from eval.report.page import Page, Section

COLUMNS = {"task": "task", "role": "role", "arm": "arm", "x": "change", "x1": "from", "x2": "to", "verdict": "verdict"}


def section(page: Page) -> Section | None:
    charts = [
        _chart(page, rows, bits)
        for bits in (False, True)
        if (rows := [row for arm in page.from_base for row in (*arm.rows, *arm.groups) if _is_bits(row) == bits])
    ]
    return page.section("forest", "Task by task, from the base", charts=charts) if charts else None


def _is_bits(row: TaskComparison) -> bool:
    return row.metric == words.BITS


def _chart(page: Page, rows: list[TaskComparison], bits: bool) -> Chart:
    records = [_record(row) for row in rows]
    title = "Change in bits per byte from the base" if bits else "Change of every task from the base"
    table = Table.of(records, COLUMNS)
    return Chart("forest_bits" if bits else "forest", title, _forest(page, records, bits), table)


def _record(row: TaskComparison) -> dict[str, Any]:
    in_bits = row.metric == words.BITS  # their axis is turned; of other scores the gain is shown, so that left is worse
    change, (low, high) = (row.delta, row.estimate.ci95) if in_bits else (row.gain, row.gain_ci)
    scale = words.scale(row.metric)
    return {
        "task": words.task_name(row.task),
        "role": row.role,
        "last": row.is_group,
        "arm": row.new,
        "x": change * scale,
        "x1": low * scale,
        "x2": high * scale,
        "verdict": str(row.verdict),
    }


def _forest(page: Page, rows: list[dict[str, Any]], bits: bool) -> Spec:
    """One line per arm and task, targets first, groups last."""
    names = list(dict.fromkeys(row["arm"] for row in rows))
    ordered = sorted(rows, key=lambda row: (row["role"] != "target", row["last"]))
    tasks = list(dict.fromkeys(row["task"] for row in ordered))
    color, shape = by_arm(names, page.looks)
    data, step = alt.Data(values=rows), max(24, 13 * len(names) + 8)
    y = alt.Y("task:N", sort=tasks, title=None, axis=alt.Axis(minExtent=min(140, 7 * max(map(len, tasks)))))
    offset = alt.YOffset("arm:N", sort=names)
    scale = alt.Scale(reverse=True, zero=False) if bits else alt.Scale(zero=False)
    title = f"change, {words.unit(words.BITS if bits else 'acc')}{' (left is worse)' if bits else ''}"
    x = alt.X("x:Q", title=title, scale=scale, axis=alt.Axis(tickCount=7))
    span = {"x1": "from", "x": "change", "x2": "to"}
    zero = alt.Chart(alt.Data(values=[{"x": 0}])).mark_rule(color="currentColor", opacity=0.5).encode(x="x:Q")
    intervals = alt.Chart(data).mark_rule(strokeWidth=1.6)
    marks = alt.Chart(data).mark_point(size=60, filled=True, opacity=1)
    tooltip = ["task:N", "arm:N", *tips(span, "+.3f" if bits else "+.2f"), "verdict:N"]
    layers = [
        zero,
        intervals.encode(alt.X("x1:Q", scale=scale), alt.X2("x2:Q"), y, offset, color),
        marks.encode(x, y, offset, color, shape, tooltip=tooltip),
    ]
    return finish(alt.layer(*layers), height=step * len(tasks) + 10)
