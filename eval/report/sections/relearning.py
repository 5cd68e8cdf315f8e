"""Gone or only buried: how fast a lost skill comes back on its old data, against learning it as new."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from eval import sequence_words
from eval.report.charts import Chart, Table, by_arm, finish, tips
from eval.report.page import Page, Section

Entry = Mapping[str, Any]
SIDES = {"lost": "it was lost", "never": "it was never there"}


def section(page: Page) -> Section | None:
    entries = page.data.get("relearning")
    if not entries:
        return None
    charts = [_chart(page, number, entry) for number, entry in enumerate(entries)]
    return page.section(
        "relearning", "Gone or only buried?", charts=charts, entries=entries, sides=SIDES, say=sequence_words
    )


def _chart(page: Page, number: int, entry: Entry) -> Chart:
    """Both curves over the steps of training, with the threshold."""
    points = [
        {"arm": entry[side]["stage"], "start": start, "step": step, "score": 100 * value}
        for side, start in SIDES.items()
        for step, value in zip(entry[side]["curve"]["steps"], entry[side]["curve"]["values"], strict=True)
    ]
    color, shape = by_arm([entry[side]["stage"] for side in SIDES], page.looks)
    x = alt.X("step:Q", title="steps on the skill's old data", axis=alt.Axis(tickCount=6))
    y = alt.Y("score:Q", title=f"{entry['task']}, points", scale=alt.Scale(domain=[0, 100]))
    curves = alt.Chart(alt.Data(values=points)).encode(x, y, color)
    threshold = alt.Chart(alt.Data(values=[{"score": 100 * entry["threshold"]}]))
    layers: list[alt.Chart] = [
        threshold.mark_rule(color="currentColor", opacity=0.5, strokeDash=[4, 4]).encode(y="score:Q"),
        curves.mark_line(strokeWidth=1.8),
        curves.mark_point(size=50, filled=True, opacity=1).encode(
            shape, tooltip=["arm:N", "start:N", *tips({"step": "step"}, ".0f"), *tips({"score": "score"}, ".1f")]
        ),
    ]
    table = Table.of(points, {"arm": "stage", "start": "before training", "step": "step", "score": "score"})
    return Chart(f"relearning_{number}", f"Relearning {entry['task']}", finish(alt.layer(*layers), height=220), table)
