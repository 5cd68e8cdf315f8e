"""`build_report`: compare, write `results.json` and `items.parquet`, lay out the page."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from eval import words
from eval.compare import compare_all
from eval.comparison import ArmComparison, Results, TaskComparison
from eval.config import Role
from eval.report import figures, look
from eval.report.flips import worst_flips
from eval.results import MeasuredModel, ReportInput, all_items, atomically, results_json, run_id, write_results
from eval.terminal import in_reading_order

ROLES: tuple[Role, ...] = ("target", "retained")


def build_report(report: ReportInput, folder: Path) -> Results:
    """Write `results.json`, `items.parquet` and `report.html` into `folder`, each atomically, and return the
    comparisons.

    SuiteError when two models cannot be compared: see `eval/pairing.py`.
    """
    arms = tuple(compare_all(report))
    data = results_json(report, [row for arm in arms for row in (*arm.rows, *arm.groups)])
    write_results(data, all_items(report), folder)
    page = folder / "report.html"
    with atomically(page) as path:
        path.write_text(render(report, arms), encoding="utf-8")
    return Results(report.recipe, report.question, arms, data, page, tuple(report.warnings))


def render(report: ReportInput, arms: Sequence[ArmComparison]) -> str:
    """The page as one string of HTML."""
    looks = look.arms_of([(model.stage, model.parent) for model in report.models])
    ordered = in_reading_order(arms)
    from_base = [arm for arm in arms if "base" in arm.kinds]
    charts: list[Markup] = []
    context = {
        "report": report,
        "run": run_id(report),
        "looks": looks,
        "sentences": _sentences(ordered, looks),
        "verdicts": _verdict_rows(ordered, looks),
        "notes": words.notes(arms, report.warnings),
        "caption": _caption(ordered),
        "plane": _embed(
            charts, figures.plane(from_base, looks), "Gain on the target against change on the retained tasks"
        ),
        "comparisons": [_comparison(arm, looks) for arm in [*ordered, *(a for a in arms if a not in ordered)]],
        "forest": _embed(charts, figures.forest(from_base, looks, bits=False), "Change of every task from the base"),
        "forest_bits": _embed(
            charts, figures.forest(from_base, looks, bits=True), "Change in bits per byte from the base"
        ),
        "flips": _flips(ordered, report.models, looks),
        "curves": [(title, _embed(charts, spec, title)) for title, spec in figures.curves(report.models, looks)],
        "costs": _costs(report.models, looks),
        "scores": _scores(report, looks),
        "specs": charts,
        "style": Markup(_asset("style.css")),
        "bundle": Markup(_bundle()),
        "script": Markup(_asset("script.js")),
        "words": words,
    }
    return _environment().get_template("template.html").render(context)


@cache
def _environment() -> Environment:
    loader = PackageLoader("eval", "report")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


@cache
def _bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, from the wheel: nothing is fetched."""
    import vl_convert

    return vl_convert.javascript_bundle().replace("</script", "<\\/script")  # pyright: ignore[reportCallIssue] (its stub is wrong)


def _asset(name: str) -> str:
    return resources.files("eval.report").joinpath(name).read_text(encoding="utf-8")


def _embed(charts: list[Markup], spec: figures.Spec | None, title: str) -> Markup | None:
    """A place for the figure; its specification goes to the end of the page, as JSON that cannot close its script
    element."""
    if spec is None:
        return None
    name = f"figure-{len(charts)}"
    text = json.dumps(spec, separators=(",", ":")).replace("<", "\\u003c")
    charts.append(Markup(f'<script type="application/json" data-figure="{name}">{text}</script>'))
    return Markup('<div class="figure" id="{}" role="img" aria-label="{}"></div>').format(name, title)


def _sentences(ordered: Sequence[ArmComparison], looks: dict[str, look.Arm]) -> list[Markup]:
    """The declared contrasts, or without any the arms against their base."""
    chosen = [arm for arm in ordered if "contrast" in arm.kinds] or ordered
    return [
        _with_marks(words.sentence(arm, "base" in arm.kinds), [looks[arm.new], looks[arm.reference]]) for arm in chosen
    ]


def _with_marks(text: str, arms: Sequence[look.Arm]) -> Markup:
    """The sentence with each arm's shape before its name, where it is first named."""
    html = str(escape(text))
    for arm in arms:
        name = re.escape(str(escape(arm.name)))
        html = re.sub(rf"(?<![\w-]){name}(?![\w-])", lambda _, arm=arm: str(arm.label()), html, count=1)
    return Markup(html)


def _verdict_rows(ordered: Sequence[ArmComparison], looks: dict[str, look.Arm]) -> list[dict[str, Any]]:
    headlines: dict[Role, list[TaskComparison]] = {
        role: [row for arm in ordered if (row := arm.shown(role))] for role in ROLES
    }
    rows = []
    for arm in ordered:
        cells = {role: _bar_cell(arm.shown(role), headlines[role], looks[arm.new]) for role in headlines}
        judged = arm.shown("retained") or arm.shown("target")
        first = arm is ordered[0] or ("contrast" in arm.kinds) != ("contrast" in ordered[len(rows) - 1].kinds)
        rows.append(
            {"new": looks[arm.new].label(), "reference": looks[arm.reference].label(), "cells": cells, "judged": judged}
            | {"heading": ("Contrasts" if "contrast" in arm.kinds else "From the base") if first else None}
        )
    return rows


def _bar_cell(row: TaskComparison | None, column: Sequence[TaskComparison], arm: look.Arm) -> dict[str, Any] | None:
    if row is None:
        return None
    same = [other for other in column if words.unit(other.metric) == words.unit(row.metric)]
    return {"row": row, "bar": look.interval_bar(row, arm, *look.bar_scale(same))}


def _caption(ordered: Sequence[ArmComparison]) -> str:
    """What the first table rests on: tasks, items, seeds, scope."""
    parts = []
    for role in ROLES:
        row = next((row for arm in ordered if (row := arm.headline(role))), None)
        if row:
            size = f"{words.count(len(row.tasks), 'task')}, {words.count(row.n, 'item')}, {words.unit(row.metric)}"
            left_out = {other.task for other in ordered[0].rows if other.role == role} - set(row.tasks)
            parts.append(
                f"{role}: {size}" + (f" (on another scale, below: {', '.join(sorted(left_out))})" if left_out else "")
            )
    basis = "; ".join([*parts, *words.worst_notes(ordered)])
    scopes = dict.fromkeys(arm.scope_caption for arm in ordered)
    return f"{basis[:1].upper()}{basis[1:]}. Scope: {'; '.join(scopes)}."


def _comparison(arm: ArmComparison, looks: dict[str, look.Arm]) -> dict[str, Any]:
    """Everything about one pair of arms: the rows with their bars, what was remarked, which rows have transitions."""
    rows = [*arm.groups, *arm.rows]
    return {
        "arm": arm,
        "new": looks[arm.new].label(),
        "reference": looks[arm.reference].label(),
        "rows": [_bar_cell(row, rows, looks[arm.new]) for row in rows],
        "remarks": [f"{words.task_name(row.task)}: {text}" for row in rows for text in row.warnings],
        "changed": [row for row in arm.rows if row.transitions],
        "kind": "contrast"
        if "contrast" in arm.kinds
        else "from the base"
        if "base" in arm.kinds
        else "from its parent",
    }


def _flips(ordered: Sequence[ArmComparison], models: Sequence[MeasuredModel], looks) -> list[dict[str, Any]]:
    shown = []
    for arm in ordered:
        a, b = ([model for model in models if model.stage == name] for name in (arm.reference, arm.new))
        flips = worst_flips(arm, a, b)
        if flips:
            shown.append({"new": looks[arm.new].label(), "reference": looks[arm.reference].label(), "flips": flips})
    return shown


def _costs(models: Sequence[MeasuredModel], looks) -> list[dict[str, Any]]:
    return [
        {
            "stage": looks[model.stage].label(),
            "method": model.method,
            "seed": model.seed,
            "tokens": _whole(model.training.get("train_tokens")),
            "steps": _whole(model.training.get("steps")),
            "seconds": _whole(model.training.get("seconds")),
        }
        for model in models
    ]


def _whole(number: Any) -> str:
    return f"{number:,.0f}" if isinstance(number, int | float) else "–"


def _scores(report: ReportInput, looks) -> dict[str, Any]:
    """Every model's score on every task, seed by seed."""
    rows = []
    for task, role in report.roles.items():
        about = report.models[0].tasks[task].about
        values = [words.value(about["metric"], model.tasks[task].about["value"]) for model in report.models]
        rows.append({"task": task, "role": role, "about": about, "values": values})
    return {"models": [(looks[model.stage].label(), model.seed) for model in report.models], "rows": rows}
