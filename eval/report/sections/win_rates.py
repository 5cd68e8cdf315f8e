"""Whose answers a judge prefers: the share of wins, with and without length, and some pairs to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from eval import win_words, words
from eval.report.charts import Chart, Table, by_arm, finish, tips
from eval.report.look import Arm
from eval.report.page import Page, Section
from eval.win_summary import WinResult

LONGEST = 600  # characters of a text shown
SHOWN = {"wins": 2, "ties": 1, "losses": 2}  # pairs of each kind
PLAIN, CONTROLLED = "as they are", "at equal length"
COLUMNS = {"pair": "pair", "arm": "new", "kind": "lengths", "x": "wins, %", "x1": "from", "x2": "to"}


@dataclass(frozen=True)
class Example:
    """One prompt at the first seed. outcome: in words. why: scores or verdicts of both orders."""

    outcome: str
    why: str
    prompt: str
    reference: str
    new: str


def section(page: Page) -> Section | None:
    results: Sequence[WinResult] = page.derived.get("win_rates", ())
    if not results:
        return None
    examples = [(result, examples_of(result)) for result in results]
    context = {"results": results, "examples": examples, "say": win_words}
    return page.section("win_rates", "Whose answers are preferred", charts=[chart(results, page.looks)], **context)


def chart(results: Sequence[WinResult], looks: Mapping[str, Arm]) -> Chart:
    """Every win rate with its interval; below it, hollow, the same at equal length."""
    rows = [row for result in results for row in _rows(result)]
    pairs = list(dict.fromkeys(row["pair"] for row in rows))
    color, shape = by_arm(list(dict.fromkeys(result.new for result in results)), looks)
    y, offset = (
        alt.Y("pair:N", sort=pairs, title=None, axis=alt.Axis(labelLimit=190)),
        alt.YOffset("kind:N", sort=[PLAIN, CONTROLLED]),
    )
    x = alt.X(
        "x:Q",
        title="wins, % (a tie is half a win)",
        scale=alt.Scale(zero=False, padding=12),
        axis=alt.Axis(tickCount=7),
    )
    data = alt.Data(values=rows)
    half = alt.Chart(alt.Data(values=[{"x": 50}])).mark_rule(color="currentColor", opacity=0.5, strokeDash=[4, 4])
    marks = alt.Chart(data).encode(
        x,
        y,
        offset,
        color,
        shape,
        tooltip=["pair:N", "kind:N", *tips({"x": "wins, %", "x1": "from", "x2": "to"}, ".1f")],
    )
    layers = [
        half.encode(x="x:Q"),
        alt.Chart(data).mark_rule(strokeWidth=1.6).encode(alt.X("x1:Q"), alt.X2("x2:Q"), y, offset, color),
        marks.transform_filter(f"datum.kind == '{PLAIN}'").mark_point(size=80, filled=True, opacity=1),
        marks.transform_filter(f"datum.kind == '{CONTROLLED}'").mark_point(size=60, filled=False, opacity=1),
    ]
    title = "Share of prompts on which the new model's answer is preferred, with 95 % intervals"
    return Chart("win-rates", title, finish(alt.layer(*layers), height=54 * len(pairs) + 30), Table.of(rows, COLUMNS))


def _rows(result: WinResult) -> list[dict[str, Any]]:
    judge = result.judge.split(" at http")[0]
    name = {"pair": f"{result.new} against {result.reference}, {judge}", "arm": result.new}
    kinds = [(PLAIN, result.value, result.ci95)]
    if result.controlled:
        kinds.append((CONTROLLED, result.controlled.value, result.controlled.ci95))
    return [name | {"kind": kind, "x": 100 * at, "x1": 100 * low, "x2": 100 * high} for kind, at, (low, high) in kinds]


def examples_of(result: WinResult) -> list[Example]:
    """The first pairs of each outcome at the first seed, in the order of the prompts: not chosen by what they say."""
    rows = result.cells[0].pairs
    kinds = {
        "wins": [row for row in rows if row["win"] is not None and row["win"] > 0.5],
        "ties": [row for row in rows if row["win"] == 0.5],
        "losses": [row for row in rows if row["win"] is not None and row["win"] < 0.5],
    }
    outcome = {"wins": f"{result.new} preferred", "ties": "a tie", "losses": f"{result.reference} preferred"}
    return [
        Example(
            outcome[kind], _why(row, result), *map(_short, (row["prompt"], row["reference_answer"], row["new_answer"]))
        )
        for kind, chosen in kinds.items()
        for row in chosen[: SHOWN[kind]]
    ]


def _why(row: Mapping[str, Any], result: WinResult) -> str:
    if row["reference_score"] is not None:
        scores = (
            f"{words.fixed(row['reference_score'])} for {result.reference}",
            f"{words.fixed(row['new_score'])} for {result.new}",
        )
        return f"scores {' and '.join(scores)}"
    if row["reply_new_first"] is None:
        return "equal answers"
    names = {"reference": result.reference, "new": result.new, "tie": "a tie", None: "no verdict"}
    first, second = names[row["verdict_reference_first"]], names[row["verdict_new_first"]]
    return f"shown after {result.reference}'s: {first}; shown before: {second}"


def _short(text: str) -> str:
    return "(no text)" if not text else text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
