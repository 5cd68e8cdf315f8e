"""Tasks of labels: macro F1 and its changes, every class, who is taken for whom."""

from __future__ import annotations

from collections.abc import Sequence

from eval.classification import Classification, F1Change
from eval.report.page import Page, Section


def section(page: Page) -> Section | None:
    arms: Sequence[Classification] = page.derived.get("classification", ())
    if not arms:
        return None
    shown = {(arm.reference, arm.new) for arm in page.ordered}
    changes: Sequence[F1Change] = page.derived.get("f1_changes", ())
    return page.section(
        "classification",
        "Classes",
        arms=arms,
        changes=[change for change in changes if (change.reference, change.new) in shown],
        given={(arm.stage, arm.task): _given(arm) for arm in arms},
        commonest={arm.task: max(sum(row) for row in arm.confusion) / sum(map(sum, arm.confusion)) for arm in arms},
    )


def _given(arm: Classification) -> list[list[tuple[str, int]]]:
    """For each class the labels that its rows were given, with their counts."""
    return [[(label, count) for label, count in zip(arm.classes, row, strict=True) if count] for row in arm.confusion]
