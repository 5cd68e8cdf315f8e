"""How far every model moved from its references, and what it forgot at that distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from eval import words
from eval.comparison import TaskComparison
from eval.divergence_arms import ArmDivergence
from eval.report.charts import Chart, Spec, Table, by_arm, finish, tips
from eval.report.page import Page, Section

COLUMNS = {
    "arm": "arm", "seed": "seed", "x": "nats a sequence", "x1": "from", "x2": "to", "y": "retained", "y1": "from", "y2": "to",
}  # fmt: skip


def section(page: Page) -> Section | None:
    measured: Sequence[ArmDivergence] = page.derived.get("divergence", ())
    if not measured:
        return None
    forward = [divergence for divergence in measured if divergence.direction == "forward"]
    pairs = dict.fromkeys((divergence.reference, divergence.inputs) for divergence in forward)
    charts = [chart for pair in pairs if (chart := _chart(page, *pair, forward))]
    return page.section("divergence", "Distance, and what was forgotten on the way", charts=charts, measured=measured)


def _chart(page: Page, reference: str, kind: str, forward: Sequence[ArmDivergence]) -> Chart | None:
    """Forward KL from one reference on one kind of inputs, against the change of the retained tasks."""
    moved = {d.stage: d for d in forward if (d.reference, d.inputs) == (reference, kind)}
    changes = [row for arm in page.arms if arm.reference == reference and (row := arm.headline("retained"))]
    pairs = [(moved[row.new], row) for row in changes if row.new in moved]
    if not pairs:
        return None
    means = [_mean(*pair) for pair in pairs]
    seeds = [point for pair in pairs for point in _seeds(*pair)]
    title = f"Change on the retained tasks against forward KL from {reference}, {kind} inputs"
    spec = _scatter(page, means, seeds, f"KL from {reference}, nats a {kind} sequence", pairs[0][1])
    return Chart(f"divergence-{reference}-{kind}", title, spec, Table.of([*means, *seeds], COLUMNS))


def _mean(moved: ArmDivergence, row: TaskComparison) -> dict[str, Any]:
    (x1, x2), scale = moved.per_sequence.ci95, words.scale(row.metric)
    y1, y2 = (bound * scale for bound in row.gain_ci)
    point = {"arm": row.new, "seed": "mean", "x": moved.per_sequence.value, "x1": x1, "x2": x2}
    return point | {"y": row.gain * scale, "y1": y1, "y2": y2}


def _seeds(moved: ArmDivergence, row: TaskComparison) -> list[dict[str, Any]]:
    sign, nats = (1 if row.higher_is_better else -1) * words.scale(row.metric), dict(moved.per_seed)
    return [
        {"arm": row.new, "seed": seed, "x": nats[seed], "y": sign * delta}
        for seed, delta in row.per_seed
        if seed in nats
    ]


def _scatter(
    page: Page, means: list[dict[str, Any]], seeds: list[dict[str, Any]], title: str, row: TaskComparison
) -> Spec:
    """Large marks with their intervals, small ones for seeds; a root scale, because arms differ by orders of magnitude."""
    drawn = [mean | {"x1": max(0.0, mean["x1"])} for mean in means]  # a distance below 0 has no place on it
    data, points = alt.Data(values=drawn), alt.Data(values=seeds)
    x = alt.X("x:Q", title=title, axis=alt.Axis(tickCount=6), scale=alt.Scale(type="sqrt", domainMin=0))
    change = f"change on the retained, {words.unit(row.metric)}"
    y = alt.Y("y:Q", title=change, axis=alt.Axis(tickCount=6), scale=alt.Scale(padding=12))
    color, shape = by_arm([mean["arm"] for mean in means], page.looks)
    tooltip = tips({"x": "nats a sequence", "y": "retained"}, ".2f")
    zero = alt.Chart(alt.Data(values=[{"y": 0}])).mark_rule(color="currentColor", opacity=0.45).encode(y="y:Q")
    small = alt.Chart(points).mark_point(size=34, opacity=0.6, filled=False)
    large = alt.Chart(data).mark_point(size=110, filled=True, opacity=1)
    line = alt.Chart(data).mark_rule(strokeWidth=1.6)
    layers = [
        zero,
        small.encode(x, y, color, shape, tooltip=["arm:N", "seed:Q", *tooltip]),
        line.encode(alt.X("x1:Q"), alt.X2("x2:Q"), alt.Y("y:Q"), color),
        line.encode(alt.X("x:Q"), alt.Y("y1:Q"), alt.Y2("y2:Q"), color),
        large.encode(x, y, color, shape, tooltip=["arm:N", *tooltip]),
    ]
    return finish(alt.layer(*layers), height=260)
