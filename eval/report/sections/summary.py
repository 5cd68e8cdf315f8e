"""The first screen: the recipe's question, a sentence per contrast, the verdicts with their intervals."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from eval import words
from eval.comparison import ArmComparison, TaskComparison
from eval.config import Role
from eval.report.look import Arm, bar_scale, interval_bar
from eval.report.page import Page, Section

ROLES: tuple[Role, ...] = ("target", "retained")


def section(page: Page) -> Section:
    return page.section(
        "summary",
        "",
        sentences=_sentences(page),
        notes=words.notes(page.arms, page.report.warnings),
        verdicts=_verdict_rows(page),
        caption=caption(page.ordered),
    )


def caption(ordered: Sequence[ArmComparison]) -> str:
    """What the headlines rest on: tasks, items, seeds, scope."""
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


def bar_cell(row: TaskComparison | None, column: Sequence[TaskComparison], arm: Arm) -> dict[str, Any] | None:
    """A row with its small interval bar, on the scale of all rows of the column in the same unit."""
    if row is None:
        return None
    same = [other for other in column if words.unit(other.metric) == words.unit(row.metric)]
    return {"row": row, "bar": interval_bar(row, arm, *bar_scale(same))}


def _sentences(page: Page) -> list[Markup]:
    """The declared contrasts, or without any the arms against their base."""
    chosen = [arm for arm in page.ordered if "contrast" in arm.kinds] or page.ordered
    return [_with_marks(words.sentence(arm, "base" in arm.kinds), arm, page.looks) for arm in chosen]


def _with_marks(text: str, arm: ArmComparison, looks: Mapping[str, Arm]) -> Markup:
    """The sentence with each arm's shape before its name, where it is first named."""
    html = str(escape(text))
    for look in (looks[arm.new], looks[arm.reference]):
        name = re.escape(str(escape(look.name)))
        html = re.sub(rf"(?<![\w-]){name}(?![\w-])", lambda _, look=look: str(look.label()), html, count=1)
    return Markup(html)


def _verdict_rows(page: Page) -> list[dict[str, Any]]:
    headlines: dict[Role, list[TaskComparison]] = {
        role: [row for arm in page.ordered if (row := arm.shown(role))] for role in ROLES
    }
    rows: list[dict[str, Any]] = []
    for before, arm in zip([None, *page.ordered], page.ordered, strict=False):
        cells = {role: bar_cell(arm.shown(role), headlines[role], page.looks[arm.new]) for role in ROLES}
        contrast = "contrast" in arm.kinds
        first = before is None or contrast != ("contrast" in before.kinds)
        heading = "Contrasts" if contrast else "From the base"
        judged = arm.shown("retained") or arm.shown("target")
        rows.append({"arm": arm, "cells": cells, "judged": judged, "heading": heading if first else None})
    return rows
