"""Proxy and gold against the distance from the start: where does pleasing the reward model stop being good?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from eval.overoptimisation import Overoptimisation, Run
from eval.report.charts import Chart, Spec, Table, by_arm, finish, tips
from eval.report.page import Page, Section
from eval.training_log import thinned

POINTS = 60  # of each run
COLUMNS = {"arm": "arm", "seed": "seed", "distance": "√KL", "value": "value"}
DISTANCE = "distance from the start, √KL (nats a sequence)"


def section(page: Page) -> Section | None:
    entries: Sequence[Overoptimisation] = page.derived.get("overoptimisation", ())
    if not entries:
        return None
    widest = entries[0]
    charts = [_chart(page, widest, "gold")] if any(run.gold is not None for run in widest.runs) else []
    charts.append(_chart(page, widest, "proxy"))
    fits = [(_name(entry), entry.fit, len(entry.runs)) for entry in entries if entry.fit]
    runs = [(run, run.as_json()) for run in widest.runs]
    return page.section("overoptimisation", "Reward against distance", charts=charts, fits=fits, runs=runs)


def _name(entry: Overoptimisation) -> str:
    return entry.arms[0] if len(entry.arms) == 1 else f"all: {', '.join(entry.arms)}"


def _chart(page: Page, entry: Overoptimisation, quantity: str) -> Chart:
    points = [point for run in entry.runs for point in _points(run, quantity)]
    title = {"gold": "Gold score", "proxy": "Reward model's score (proxy)"}[quantity]
    spec = _scatter(page, entry, points, title, with_fit=quantity == "gold")
    return Chart(f"distance-{quantity}", f"{title} against √KL from the start", spec, Table.of(points, COLUMNS))


def _points(run: Run, quantity: str) -> list[dict[str, Any]]:
    values = run.gold if quantity == "gold" else run.proxy
    if values is None:
        return []
    pairs = thinned(list(zip(run.distance.tolist(), values.tolist(), strict=True)), POINTS)
    return [{"arm": run.stage, "seed": run.seed, "distance": d, "value": value} for d, value in pairs]


def _scatter(page: Page, entry: Overoptimisation, points: list[dict[str, Any]], title: str, with_fit: bool) -> Spec:
    """A mark per stretch of training; for gold the fitted curve and a line where it turns down."""
    color, shape = by_arm(entry.arms, page.looks)
    x = alt.X("distance:Q", title=DISTANCE, axis=alt.Axis(tickCount=6))
    seen = [point["value"] for point in points]  # the fitted curve may leave what gold can be
    scale = alt.Scale(domain=[min(seen), max(seen)], nice=True)
    y = alt.Y("value:Q", title=title, axis=alt.Axis(tickCount=5), scale=scale)
    marks = alt.Chart(alt.Data(values=points)).mark_point(size=26, opacity=0.6)
    tooltip = ["arm:N", "seed:Q", *tips({"distance": "√KL", "value": title}, ".3f")]
    layers: list[alt.Chart] = [marks.encode(x, y, color, shape, tooltip=tooltip)]
    if with_fit and entry.fit:
        means = [{"distance": d, "value": v} for d, v in entry.fit.means]
        free = alt.Chart(alt.Data(values=means)).mark_line(color="currentColor", strokeWidth=1, opacity=0.55)
        layers.append(free.encode(x, y))
        grid = np.linspace(0, entry.fit.furthest, 80)
        curve = [{"distance": d, "value": v} for d, v in zip(grid.tolist(), entry.fit.at(grid).tolist(), strict=True)]
        line = alt.Chart(alt.Data(values=curve)).mark_line(
            color="currentColor", strokeWidth=1.6, opacity=0.8, clip=True
        )
        layers.append(line.encode(x, y))
    if with_fit and entry.fit and entry.fit.turn is not None:
        turn = alt.Chart(alt.Data(values=[{"distance": entry.fit.turn, "note": "the form turns down"}]))
        rule: dict[str, Any] = {"color": "currentColor", "opacity": 0.6}
        label = turn.mark_text(align="left", dx=5, y=6, color="currentColor", opacity=0.75)
        layers += [turn.mark_rule(**rule, strokeDash=[4, 4]).encode(x), label.encode(x, text="note:N")]
    return finish(alt.layer(*layers), height=230)
