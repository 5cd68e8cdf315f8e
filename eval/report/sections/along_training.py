"""What models knew along their training: target and retained scores at every evaluation, by arm and seed."""

from __future__ import annotations

import altair as alt

from eval import words
from eval.config import Role
from eval.report.charts import Chart, Spec, Table, by_arm, finish, tips
from eval.report.page import Page, Section
from eval.scales import on_one_scale

TITLES: dict[Role, str] = {"target": "Target", "retained": "Retained"}
COLUMNS = {"arm": "arm", "seed": "seed", "step": "step", "value": "score"}


def section(page: Page) -> Section | None:
    charts = [chart for role in TITLES if (chart := _chart(page, role))]
    return page.section("along_training", "Along training", charts=charts) if charts else None


def _chart(page: Page, role: Role) -> Chart | None:
    """The unweighted mean, at every evaluation, of those of the role's tasks that are on one scale."""
    measured = page.report.models[0].tasks
    tasks = on_one_scale({task: measured[task] for task in _asked(page, role)})
    if not tasks:
        return None
    metrics = {measured[task].metric for task in tasks}
    metric = metrics.pop() if len(metrics) == 1 else "acc"
    points = [
        {"arm": model.stage, "seed": model.seed, "step": snapshot.step, "value": value * words.scale(metric)}
        for model in page.report.models
        for snapshot in model.snapshots
        for value in [sum(snapshot.values[task] for task in tasks) / len(tasks)]
    ]
    title = f"{TITLES[role]}, {words.unit(metric)}"
    return Chart(f"along-{role}", f"{title} along training", _lines(page, points, title), Table.of(points, COLUMNS))


def _asked(page: Page, role: Role) -> list[str]:
    """The role's tasks that every evaluation along training asked."""
    snapshots = [snapshot.values for model in page.report.models for snapshot in model.snapshots]
    tasks: list[str] = list(getattr(page.report, role))
    return [task for task in tasks if snapshots and all(task in values for values in snapshots)]


def _lines(page: Page, points: list[dict], title: str) -> Spec:
    """A line per arm and seed, a mark at each evaluation."""
    color, shape = by_arm(list(dict.fromkeys(point["arm"] for point in points)), page.looks)
    x = alt.X("step:Q", title="step", axis=alt.Axis(tickCount=6))
    y = alt.Y("value:Q", title=title, axis=alt.Axis(tickCount=5), scale=alt.Scale(zero=False))
    chart, detail = alt.Chart(alt.Data(values=points)), alt.Detail("seed:N")
    tooltip = ["arm:N", "seed:Q", alt.Tooltip("step:Q", format=",.0f"), *tips({"value": title}, ".2f")]
    layers = [
        chart.mark_line(strokeWidth=1.3, opacity=0.7).encode(x, y, color, detail),
        chart.mark_point(filled=True, size=42, opacity=1).encode(x, y, color, shape, tooltip=tooltip),
    ]
    return finish(alt.layer(*layers), height=220)
