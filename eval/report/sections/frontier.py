"""Arms at equal gain: every arm's path through the plane, the declared pairs, and which training step cost what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from eval import words
from eval.comparison import ArmComparison
from eval.frontier import FrontierResult, Point
from eval.report.charts import Chart, Spec, Table, by_arm, finish, tips
from eval.report.look import Arm, arms_of
from eval.report.page import Page, Section

COLUMNS = {
    "arm": "arm", "stage": "stage", "step": "step", "x": "gain", "x1": "from", "x2": "to", "y": "retained", "y1": "from", "y2": "to",
}  # fmt: skip
TITLE = "Every arm's path: gain on the target against change on the retained tasks, from the base"


def section(page: Page) -> Section | None:
    result: FrontierResult | None = next(iter(page.derived.get("frontier", ())), None)
    if result is None:
        return None
    arms = list(dict.fromkeys(point.arm for point in result.points))
    own = arms_of([(result.base, None), *((arm, result.base) for arm in arms if arm != result.base)])
    looks = {arm: page.looks.get(arm, look) for arm, look in own.items()}  # an arm named as a stage looks like it
    points = [_row(point, order) for order, point in enumerate(result.points)]
    chart = Chart("frontier", TITLE, _paths(arms, looks, points), Table.of(points, COLUMNS))
    return page.section(
        "frontier",
        "Who forgets less at equal gain?",
        charts=[chart],
        result=result,
        arms=[looks[arm] for arm in arms],
        sentences=[words.at_equal_gain(matched, result.n_seeds) for matched in result.matched],
        pairs=[(looks[matched.new], looks[matched.reference], matched) for matched in result.matched],
        steps=_steps(page, result),
    )


def _row(point: Point, order: int) -> dict[str, Any]:
    """In points."""
    ends = {"x1": point.gain_ci[0], "x2": point.gain_ci[1], "y1": point.kept_ci[0], "y2": point.kept_ci[1]}
    numbers = {key: 100 * number for key, number in (ends | {"x": point.gain, "y": point.kept}).items()}
    step = "end" if point.step is None else point.step
    return {
        "arm": point.arm,
        "way": f"{point.arm} {point.path}",
        "stage": point.stage,
        "step": step,
        "order": order,
    } | numbers


def _paths(arms: Sequence[str], looks: dict[str, Arm], points: list[dict[str, Any]]) -> Spec:
    data = alt.Data(values=points)
    color, shape = by_arm(arms, looks)
    x = alt.X("x:Q", axis=alt.Axis(tickCount=7), scale=alt.Scale(padding=12)).title("gain on the target, points")
    y = alt.Y("y:Q", axis=alt.Axis(tickCount=7), scale=alt.Scale(padding=12)).title("change on the retained, points")
    chart = alt.Chart(data)
    told = [alt.Tooltip("arm:N"), alt.Tooltip("stage:N"), alt.Tooltip("step:N"), *tips({"x": "gain", "y": "retained"})]
    layers = [
        chart.mark_rule(color="currentColor", opacity=0.45).encode(y=alt.datum(0)),
        chart.mark_rule(strokeWidth=1, opacity=0.25).encode(alt.X("x1:Q"), alt.X2("x2:Q"), y, color),
        chart.mark_rule(strokeWidth=1, opacity=0.25).encode(x, alt.Y("y1:Q"), alt.Y2("y2:Q"), color),
        chart.mark_line(strokeWidth=1.8).encode(x, y, color, detail="way:N", order="order:Q"),
        chart.mark_point(size=55, filled=True, opacity=1).encode(x, y, color, shape, tooltip=told),
    ]
    return finish(alt.layer(*layers), height=380)


def _steps(page: Page, result: FrontierResult) -> list[ArmComparison]:
    """What every training step on an arm's way changed, against the model that it started from."""
    stages = {point.stage for point in result.points}
    return [arm for arm in page.arms if "parent" in arm.kinds and arm.new in stages]
