"""Training curves: a small figure per stage and quantity, a line per seed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from eval.report.charts import Chart, Spec, Table, finish
from eval.report.look import Arm
from eval.report.page import Page, Section
from eval.results import MeasuredModel
from eval.training_log import Point, columns, is_number, read_metrics, thinned

CHOSEN = (
    r"^train/loss$",
    r"^rollout/(score|reward)$",
    r"^rollout/gold$",
    r"^rollout/kl$",
    r"^rollout/length$",
    r"accuracy$",
)
POINTS = 120
PER_STAGE = 4
OPEN = 16  # more figures than these wait in a closed fold and are drawn when it is opened


def section(page: Page) -> Section | None:
    by_stage: dict[str, list[MeasuredModel]] = {}
    for model in page.report.models:
        by_stage.setdefault(model.stage, []).append(model)
    charts = [chart for stage, models in by_stage.items() for chart in _of_stage(stage, models, page.looks[stage])]
    marked = any(getattr(model, "snapshots", ()) for model in page.report.models)
    many = len(charts) > OPEN
    return page.section("curves", "Training", charts=charts, fold=many, marked=marked) if charts else None


def _of_stage(stage: str, models: Sequence[MeasuredModel], look: Arm) -> list[Chart]:
    runs = {model.seed: read_metrics(model.metrics) for model in models}
    evaluated = {model.seed: [shot.step for shot in getattr(model, "snapshots", ())] for model in models}
    charts = []
    for key in _chosen_keys(runs):
        lines = {seed: columns(rows, "step", key) for seed, rows in runs.items()}
        lines = {seed: line for seed, line in lines.items() if len(line) > 1}  # a single point is no curve
        if lines:
            name = f"{stage}-{key}".replace("/", "-")
            charts.append(Chart(name, f"{stage}: {key}", _curve(lines, evaluated, look), _table(lines)))
    return charts


def _chosen_keys(runs: Mapping[int, list[dict[str, Any]]]) -> list[str]:
    """What a reader wants to see first: the loss, or score, gold, KL and length of what was sampled; else the first two."""
    keys = sorted({key for rows in runs.values() for row in rows for key in row if "/" in key and is_number(row[key])})
    chosen = [key for wanted in CHOSEN for key in keys if re.search(wanted, key)]
    return chosen[:PER_STAGE] or [key for key in keys if not key.startswith(("time/", "speed/"))][:2]


def _curve(lines: Mapping[int, list[Point]], evaluated: Mapping[int, Sequence[int]], look: Arm) -> Spec:
    """Thin lines, hollow marks where the model was evaluated along training, a filled one at its end."""
    drawn = {seed: thinned(line, POINTS) for seed, line in lines.items()}
    data = [_point(seed, point) for seed, line in drawn.items() for point in line]
    ends = [_point(seed, (lines[seed][-1][0], line[-1][1])) for seed, line in drawn.items()]
    shots = [
        _point(seed, min(line, key=lambda point, step=step: abs(point[0] - step)))
        for seed, line in drawn.items()
        for step in evaluated.get(seed, ())
    ]
    x = alt.X("step:Q", title="step", axis=alt.Axis(tickCount=4))
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4))
    tooltip = ["seed:N", alt.Tooltip("step:Q", format=",.0f"), alt.Tooltip("value:Q", format=".4~g")]
    mark: dict[str, Any] = {"color": look.color, "shape": look.shape}
    line = alt.Chart(alt.Data(values=data)).mark_line(color=look.color, strokeWidth=1.4, opacity=0.75)
    hover = alt.Chart(alt.Data(values=data)).mark_point(size=60, opacity=0)
    during = alt.Chart(alt.Data(values=shots)).mark_point(**mark, filled=False, size=34, opacity=0.9)
    end = alt.Chart(alt.Data(values=ends)).mark_point(**mark, filled=True, size=40, opacity=1)
    layers = [line.encode(x, y, alt.Detail("seed:N"))]
    layers += [marks.encode(x, y, tooltip=tooltip) for marks in (hover, *([during] if shots else []), end)]
    return finish(alt.layer(*layers), height=120)


def _point(seed: int, point: Point) -> dict[str, float]:
    return {"seed": seed, "step": point[0], "value": point[1]}


def _table(lines: Mapping[int, list[Point]]) -> Table:
    """One row per step drawn, one column per seed."""
    values = {seed: {round(step): value for step, value in thinned(line, POINTS)} for seed, line in lines.items()}
    steps = sorted({step for line in values.values() for step in line})
    rows = tuple((step, *(line.get(step) for line in values.values())) for step in steps)
    return Table(("step", *(f"seed {seed}" for seed in values)), rows)
