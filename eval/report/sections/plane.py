"""Gain on the target against change on the retained tasks, each arm from its base."""

from __future__ import annotations

from typing import Any

import altair as alt

from eval import words
from eval.comparison import TaskComparison
from eval.report.charts import Chart, Spec, Table, by_arm, finish, tips
from eval.report.page import Page, Section
from eval.report.sections.summary import caption

COLUMNS = {
    "arm": "arm", "seed": "seed", "x": "target", "x1": "from", "x2": "to", "y": "retained", "y1": "from", "y2": "to",
}  # fmt: skip
INTERVALS = {
    "x": "target", "x1": "target, from", "x2": "target, to", "y": "retained", "y1": "retained, from", "y2": "retained, to",
}  # fmt: skip
TITLE = "Gain on the target against change on the retained tasks"


def section(page: Page) -> Section | None:
    pairs = [(arm.headline("target"), arm.headline("retained")) for arm in page.from_base]
    headlines = [(target, retained) for target, retained in pairs if target and retained]
    if not headlines or len(headlines) < len(pairs):
        return None
    means = [_mean(*pair) for pair in headlines]
    seeds = [seed for pair in headlines for seed in _seeds(*pair)]
    chart = Chart("plane", TITLE, _plane(page, headlines, means, seeds), Table.of([*means, *seeds], COLUMNS))
    return page.section("plane", "Gained and forgotten, from the base", charts=[chart], caption=caption(page.ordered))


def _mean(target: TaskComparison, retained: TaskComparison) -> dict[str, Any]:
    (x, x1, x2), (y, y1, y2) = _gains(target), _gains(retained)
    return {"arm": target.new, "seed": "mean", "x": x, "x1": x1, "x2": x2, "y": y, "y1": y1, "y2": y2}


def _seeds(target: TaskComparison, retained: TaskComparison) -> list[dict[str, Any]]:
    pairs = zip(target.per_seed, retained.per_seed, strict=True)
    return [
        {"arm": target.new, "seed": seed, "x": _gain(target, gained), "y": _gain(retained, kept)}
        for (seed, gained), (_, kept) in pairs
    ]


def _plane(
    page: Page,
    headlines: list[tuple[TaskComparison, TaskComparison]],
    means: list[dict[str, Any]],
    seeds: list[dict[str, Any]],
) -> Spec:
    """Large marks with their intervals, small ones for seeds, the base at the origin, the margin as a dashed line."""
    target, retained = headlines[-1]
    data, points = alt.Data(values=means), alt.Data(values=seeds)
    x, y = (
        alt.X("x:Q", axis=alt.Axis(tickCount=6), scale=alt.Scale(padding=12)).title(
            f"gain on the target, {words.unit(target.metric)}"
        ),
        alt.Y("y:Q", axis=alt.Axis(tickCount=6), scale=alt.Scale(padding=12)).title(
            f"change on the retained, {words.unit(retained.metric)}"
        ),
    )
    color, shape = by_arm([row["arm"] for row in means], page.looks)
    margin, base = -retained.margin * words.scale(retained.metric), headlines[0][0].reference
    origin = alt.Chart(alt.Data(values=[{"x": 0, "y": 0, "margin": margin, "base": base, "note": "margin"}]))
    rule: dict[str, Any] = {"color": "currentColor", "opacity": 0.45}
    label: dict[str, Any] = {"align": "left", "dx": 6, "color": "currentColor", "opacity": 0.7}
    corner = {"color": page.looks[base].color, "size": 80, "filled": True, "opacity": 1}
    layers = [
        origin.mark_rule(**rule).encode(x="x:Q"),
        origin.mark_rule(**rule).encode(y="y:Q"),
        origin.mark_rule(**rule, strokeDash=[4, 4]).encode(y="margin:Q"),
        origin.mark_point(**corner).encode(x="x:Q", y="y:Q"),
        origin.mark_text(**label, dy=-8).encode(x="x:Q", y="y:Q", text="base:N"),
        origin.mark_text(**label, baseline="top", dy=5).encode(x="x:Q", y="margin:Q", text="note:N"),
        alt.Chart(points)
        .mark_point(size=34, opacity=0.6, filled=False)
        .encode(x, y, color, shape, tooltip=["arm:N", "seed:Q", *tips({"x": "target", "y": "retained"})]),
        alt.Chart(data).mark_rule(strokeWidth=1.6).encode(alt.X("x1:Q"), alt.X2("x2:Q"), alt.Y("y:Q"), color),
        alt.Chart(data).mark_rule(strokeWidth=1.6).encode(alt.X("x:Q"), alt.Y("y1:Q"), alt.Y2("y2:Q"), color),
        alt.Chart(data)
        .mark_point(size=110, filled=True, opacity=1)
        .encode(x, y, color, shape, tooltip=["arm:N", *tips(INTERVALS)]),
    ]
    return finish(alt.layer(*layers), height=280)


def _gain(row: TaskComparison, raw: float) -> float:
    return (raw if row.higher_is_better else -raw) * words.scale(row.metric)


def _gains(row: TaskComparison) -> tuple[float, float, float]:
    low, high = row.gain_ci
    scale = words.scale(row.metric)
    return row.gain * scale, low * scale, high * scale
