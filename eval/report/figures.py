"""The page's figures as Vega-Lite specifications (plain dictionaries), made with Altair.

Every figure takes its width from the page and its colours from CSS variables; left and down always mean worse.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np

from eval import words
from eval.comparison import ArmComparison, TaskComparison
from eval.report.look import FONT, Arm
from eval.results import MeasuredModel

Spec = dict[str, Any]
CURVES = (
    r"^train/loss$",
    r"^rollout/(score|reward)$",
    r"^rollout/gold$",
    r"^rollout/kl$",
    r"^rollout/length$",
    r"accuracy$",
)
CURVE_POINTS = 120


def plane(arms: Sequence[ArmComparison], looks: Mapping[str, Arm]) -> Spec | None:
    """Gain on the target against change on the retained tasks, each arm from its base: mean with its intervals, and
    every seed."""
    means, seeds, units, margin = [], [], None, 0.0
    for arm in arms:
        target, retained = arm.headline("target"), arm.headline("retained")
        if not target or not retained:
            return None
        units, margin = (target.metric, retained.metric), retained.margin * words.scale(retained.metric)
        (x, x1, x2), (y, y1, y2) = _gains(target), _gains(retained)
        means.append({"arm": arm.new, "x": x, "x1": x1, "x2": x2, "y": y, "y1": y1, "y2": y2})
        pairs = zip(target.per_seed, retained.per_seed, strict=True)
        seeds += [
            {"arm": arm.new, "seed": seed, "x": _gain(target, gained), "y": _gain(retained, kept)}
            for (seed, gained), (_, kept) in pairs
        ]
    if units is None:
        return None
    data, points = alt.Data(values=means), alt.Data(values=seeds)
    x = alt.X(
        "x:Q",
        axis=alt.Axis(tickCount=6),
        scale=alt.Scale(padding=12),
        title=f"gain on the target, {words.unit(units[0])}",
    )
    y = alt.Y(
        "y:Q",
        axis=alt.Axis(tickCount=6),
        scale=alt.Scale(padding=12),
        title=f"change on the retained, {words.unit(units[1])}",
    )
    color, shape = _encodings([arm.new for arm in arms], looks)
    origin = alt.Data(values=[{"x": 0, "y": 0, "margin": -margin, "base": arms[0].reference, "note": "margin"}])
    rule = {"color": "currentColor", "opacity": 0.45}
    base = alt.Chart(origin)
    layers = [
        base.mark_rule(**rule).encode(x="x:Q"),
        base.mark_rule(**rule).encode(y="y:Q"),
        base.mark_rule(**rule, strokeDash=[4, 4]).encode(y="margin:Q"),
        base.mark_point(color=looks[arms[0].reference].color, size=80, filled=True, opacity=1).encode(x="x:Q", y="y:Q"),
        base.mark_text(align="left", dx=6, dy=-8, color="currentColor", opacity=0.7).encode(
            x="x:Q", y="y:Q", text="base:N"
        ),
        base.mark_text(align="left", baseline="top", dx=6, dy=5, color="currentColor", opacity=0.7).encode(
            x="x:Q", y="margin:Q", text="note:N"
        ),
        alt.Chart(points)
        .mark_point(size=34, opacity=0.6, filled=False)
        .encode(x, y, color, shape, tooltip=["arm:N", "seed:Q"]),
        alt.Chart(data).mark_rule(strokeWidth=1.6).encode(alt.X("x1:Q"), alt.X2("x2:Q"), alt.Y("y:Q"), color),
        alt.Chart(data).mark_rule(strokeWidth=1.6).encode(alt.X("x:Q"), alt.Y("y1:Q"), alt.Y2("y2:Q"), color),
        alt.Chart(data)
        .mark_point(size=110, filled=True, opacity=1)
        .encode(x, y, color, shape, tooltip=["arm:N", *_tips("xy")]),
    ]
    return _finish(alt.layer(*layers).properties(height=280))


def forest(arms: Sequence[ArmComparison], looks: Mapping[str, Arm], bits: bool) -> Spec | None:
    """Per-task changes of every arm, with 95 % intervals; bits: only tasks in bits per byte, or only the others."""
    rows = [_forest_row(row) for arm in arms for row in (*arm.rows, *arm.groups) if (row.metric == words.BITS) == bits]
    if not rows:
        return None
    names = list(dict.fromkeys(arm.new for arm in arms))
    tasks = list(
        dict.fromkeys(row["task"] for row in sorted(rows, key=lambda row: (row["role"] != "target", row["last"])))
    )
    color, shape = _encodings(names, looks)
    worse = " (left is worse)" if bits else ""
    data, step = alt.Data(values=rows), max(24, 13 * len(names) + 8)
    longest = max(len(row.task) for arm in arms for row in arm.rows)
    y = alt.Y("task:N", sort=tasks, title=None, axis=alt.Axis(minExtent=min(140, 7 * longest)))
    offset = alt.YOffset("arm:N", sort=names)
    x_scale = alt.Scale(reverse=True, zero=False) if bits else alt.Scale(zero=False)
    title = f"change, {words.unit(words.BITS if bits else 'acc')}{worse}"
    zero = alt.Chart(alt.Data(values=[{"x": 0}])).mark_rule(color="currentColor", opacity=0.5).encode(x="x:Q")
    layers = [
        zero,
        alt.Chart(data)
        .mark_rule(strokeWidth=1.6)
        .encode(alt.X("x1:Q", scale=x_scale), alt.X2("x2:Q"), y, offset, color),
        alt.Chart(data)
        .mark_point(size=60, filled=True, opacity=1)
        .encode(
            alt.X("x:Q", title=title, scale=x_scale, axis=alt.Axis(tickCount=7)),
            y,
            offset,
            color,
            shape,
            tooltip=["task:N", "arm:N", *_tips("x"), "verdict:N"],
        ),
    ]
    return _finish(alt.layer(*layers).properties(height=step * len(tasks) + 10))


def curves(models: Sequence[MeasuredModel], looks: Mapping[str, Arm]) -> list[tuple[str, Spec]]:
    """One small figure per stage and quantity, a line per seed; a mark where the measured model was taken. [(title,
    spec)]"""
    figures = []
    for stage in dict.fromkeys(model.stage for model in models):
        runs = {model.seed: read_metrics(model.metrics) for model in models if model.stage == stage}
        for key in _chosen_keys(runs):
            lines = {
                seed: [(row["step"], row[key]) for row in rows if _is_number(row.get(key))]
                for seed, rows in runs.items()
            }
            curves = {seed: line for seed, line in lines.items() if len(line) > 1}  # a single point is no curve
            if curves:
                figures.append((f"{stage}: {key}", _curve(curves, looks[stage])))
    return figures


def read_metrics(path: Path | None) -> list[dict[str, Any]]:
    """Rows of `metrics.jsonl`; a line cut short by a crash is left out."""
    if path is None or not path.is_file():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and _is_number(row.get("step")):
            rows.append(row)
    return rows


def _curve(lines: Mapping[int, list[tuple[float, float]]], look: Arm) -> Spec:
    values = [{"seed": seed, "step": step, "value": y} for seed, line in lines.items() for step, y in _thinned(line)]
    ends = [{"seed": seed, "step": line[-1][0], "value": _thinned(line)[-1][1]} for seed, line in lines.items()]
    x = alt.X("step:Q", title="step", axis=alt.Axis(tickCount=4))
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4))
    detail = alt.Detail("seed:N")
    drawn = alt.Chart(alt.Data(values=values)).mark_line(color=look.color, strokeWidth=1.4, opacity=0.75)
    marked = alt.Chart(alt.Data(values=ends)).mark_point(
        color=look.color, shape=look.shape, filled=True, size=40, opacity=1
    )
    return _finish(
        alt.layer(drawn.encode(x, y, detail), marked.encode(x, y, tooltip=["seed:N", "step:Q", "value:Q"])).properties(
            height=120
        )
    )


def _thinned(line: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means over equal stretches, at most CURVE_POINTS of them."""
    if len(line) <= CURVE_POINTS:
        return line
    return [tuple(part.mean(0).tolist()) for part in np.array_split(np.array(line, float), CURVE_POINTS)]  # type: ignore[misc]


def _chosen_keys(runs: Mapping[int, list[dict[str, Any]]]) -> list[str]:
    """What a reader wants to see first: the loss, or score, gold, KL and length of what was sampled; else the first two."""
    keys = sorted({key for rows in runs.values() for row in rows for key in row if "/" in key and _is_number(row[key])})
    chosen = [key for wanted in CURVES for key in keys if re.search(wanted, key)]
    return chosen[:4] or [key for key in keys if not key.startswith(("time/", "speed/"))][:2]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _gain(row: TaskComparison, raw: float) -> float:
    return (raw if row.higher_is_better else -raw) * words.scale(row.metric)


def _gains(row: TaskComparison) -> tuple[float, float, float]:
    low, high = row.gain_ci
    scale = words.scale(row.metric)
    return row.gain * scale, low * scale, high * scale


def _forest_row(row: TaskComparison) -> dict[str, Any]:
    scale, (low, high) = words.scale(row.metric), row.estimate.ci95
    return {
        "task": words.task_name(row.task),
        "role": row.role,
        "last": row.is_group,
        "arm": row.new,
        "x": row.delta * scale,
        "x1": low * scale,
        "x2": high * scale,
        "verdict": str(row.verdict),
    }


def _encodings(names: Sequence[str], looks: Mapping[str, Arm]) -> tuple[alt.Color, alt.Shape]:
    colors, shapes = [looks[name].color for name in names], [looks[name].shape for name in names]
    legend = None  # the page's own key says it once for all figures
    return (
        alt.Color("arm:N", scale=alt.Scale(domain=list(names), range=colors), legend=legend),
        alt.Shape("arm:N", scale=alt.Scale(domain=list(names), range=shapes), legend=legend),
    )


def _tips(axes: str) -> list[alt.Tooltip]:
    names = {"x": "estimate", "x1": "from", "x2": "to"} if axes == "x" else {"x": "target", "y": "retained"}
    return [alt.Tooltip(f"{field}:Q", title=title, format="+.2f") for field, title in names.items()]


def _finish(chart: alt.LayerChart | alt.FacetChart) -> Spec:
    axis = {
        "labelColor": "currentColor", "titleColor": "currentColor", "domainColor": "currentColor", "tickColor": "currentColor",
        "gridColor": "currentColor", "gridOpacity": 0.1, "domainOpacity": 0.4, "tickOpacity": 0.4, "labelOpacity": 0.85,
        "labelFont": FONT, "titleFont": FONT, "labelFontSize": 12.5, "titleFontSize": 13, "titleFontWeight": "normal",
        "titlePadding": 8, "labelLimit": 140,
    }  # fmt: skip
    configured = chart.properties(
        width="container", background="transparent", autosize={"type": "fit-x", "contains": "padding"}
    )
    return configured.configure(
        font=FONT, view={"stroke": None}, axis=axis, text={"font": FONT, "fontSize": 12}
    ).to_dict()
