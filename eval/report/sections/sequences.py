"""Tasks learned in a row: the scores after every stage, in order, and what they say of forgetting and of transfer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from eval.report.charts import Chart, Table, finish
from eval.report.page import Page, Section

Entry = Mapping[str, Any]
NUMBERS = {"average_forgetting": "average forgetting", "bwt": "backward transfer", "fwt": "forward transfer"}


def section(page: Page) -> Section | None:
    entries = page.data.get("sequences")
    if not entries:
        return None
    orders = [entry for entry in entries if entry["kind"] == "order"]
    charts = [_chart(number, entry) for number, entry in enumerate(orders)]
    context = {"entries": entries, "orders": orders, "numbers": NUMBERS, "by_seed": _by_seed(entries)}
    return page.section("sequences", "Task after task", charts=charts, **context)


def _by_seed(entries: Sequence[Entry]) -> Table:
    """The numbers of every seed alone, in points."""
    rows = [
        (entry["name"], seed, *(100 * entry[key]["per_seed"][place] for key in NUMBERS))
        for entry in entries
        for place, seed in enumerate(entry["seeds"])
    ]
    return Table(("order", "seed", *NUMBERS.values()), tuple(rows))


def _chart(number: int, entry: Entry) -> Chart:
    """R as a heat table: a row for each stage, the score in each cell, a frame around what the stage teaches."""
    stages = [entry["base"], *entry["stages"]]
    taught = dict(zip(entry["stages"], entry["tasks"], strict=True))
    cells = [
        {
            "stage": stage,
            "task": task,
            "score": 100 * score,
            "text": f"{100 * score:.0f}",
            "taught": taught.get(stage) == task,
        }
        for stage, row in zip(stages, entry["scores"], strict=True)
        for task, score in zip(entry["tasks"], row, strict=True)
    ]
    x = alt.X(
        "task:N",
        sort=list(entry["tasks"]),
        title=None,
        axis=alt.Axis(orient="top", labelAngle=0, domain=False, ticks=False),
    )
    y = alt.Y("stage:N", sort=stages, title=None, axis=alt.Axis(domain=False, ticks=False, labelLimit=180))
    cell = alt.Chart(alt.Data(values=cells)).encode(
        x, y, tooltip=["stage:N", "task:N", alt.Tooltip("score:Q", format=".1f")]
    )
    shade = alt.Opacity("score:Q", scale=alt.Scale(domain=[0, 100], range=[0.04, 0.5]), legend=None)
    layers: list[alt.Chart] = [
        cell.mark_rect(color="var(--arm-1)").encode(shade),
        cell.transform_filter("datum.taught").mark_rect(filled=False, stroke="currentColor", strokeWidth=1.4),
        cell.mark_text(color="currentColor").encode(text="text:N"),
    ]
    table = Table(
        ("after", *entry["tasks"]),
        tuple((stage, *(100 * score for score in row)) for stage, row in zip(stages, entry["scores"], strict=True)),
    )
    title = f"{entry['name']}: score on each task after each stage"
    return Chart(f"sequence_{number}", title, finish(alt.layer(*layers), height=34 * len(stages) + 20), table)
