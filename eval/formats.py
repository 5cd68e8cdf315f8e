"""Plain against chat format: is a skill forgotten, or only hidden by the format that training taught?

A retained task that was asked in a second format (`evaluation: formats: [plain, chat]`) has a twin, `lab_facts@chat`, on the same
documents. Three paired differences tell the cases apart: old format against old, new format against new, and **across**: the new model
in the second format against the reference in the task's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from alignment.core.errors import SuiteError
from eval.compare import arms_by_name, compared_pairs
from eval.pairing import PairedTask, pair_seeds, pair_task
from eval.results import MeasuredModel, ReportInput
from eval.statistics import Estimate, adjust, crossed, widen_if_unchanged
from eval.task_config import base_name
from eval.verdict import retained_verdict

Reading = Literal["kept", "hidden", "forgotten", "open"]
MEANING: dict[Reading, str] = {
    "kept": "kept: asked as before, no loss beyond the margin",
    "hidden": "hidden: lost when asked as before, still there in the other format",
    "forgotten": "forgotten: lost in both formats",
    "open": "open: the data do not tell",
}


@dataclass(frozen=True)
class FormatReading:
    """One task in two formats, arm `new` against `reference`. own: the task's name in its own format; other: in the second one.

    values: mean scores of (reference, new), by format. own_change, other_change: new - reference in each format. across: new in the
    other format - reference in the task's own.
    """

    reference: str
    new: str
    own: str
    other: str
    own_values: tuple[float, float]
    other_values: tuple[float, float]
    own_change: Estimate
    other_change: Estimate
    across: Estimate
    margin: float
    reading: Reading

    def as_json(self) -> dict[str, Any]:
        """The entry of `results.json`."""
        changes = {"own_change": self.own_change, "other_change": self.other_change, "across": self.across}
        return {
            **{key: getattr(self, key) for key in ("reference", "new", "own", "other", "margin", "reading")},
            "own_values": list(self.own_values),
            "other_values": list(self.other_values),
            **{
                key: {"delta": each.value, "ci": list(each.ci95), "ci_method": each.method}
                for key, each in changes.items()
            },
        }


def format_readings(report: ReportInput) -> list[FormatReading]:
    """For every comparison and every task that was asked in two formats; corrected by Holm for the tasks of a comparison."""
    arms = arms_by_name(report.models)
    readings = []
    for reference, new in compared_pairs(report):
        pairs = pair_seeds(arms[reference], arms[new])
        asked = [_Changes.of(own, other, pairs) for own, other in _twins(list(report.roles))]
        p_own = adjust([each.own_change.p for each in asked], "holm")
        p_across = adjust([each.across.p for each in asked], "holm")
        margins = [report.comparison.margin_of(each.own.first.metric) or 0.0 for each in asked]
        readings += [
            each.reading(reference, new, *rest) for each, *rest in zip(asked, p_own, p_across, margins, strict=True)
        ]
    return readings


def _twins(tasks: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Tasks with their second reading: the same name with `@chat` or `@plain` more."""
    for task in tasks:
        parts = task.split("@")
        formats = [part for part in parts[1:] if part in ("plain", "chat")]
        rest = "@".join(part for part in parts if part not in formats)
        if formats and rest in tasks and base_name(rest) == parts[0]:
            yield rest, task


@dataclass(frozen=True)
class _Changes:
    """One task in two formats, and the three paired differences."""

    own: PairedTask
    other: PairedTask
    own_change: Estimate
    other_change: Estimate
    across: Estimate

    @classmethod
    def of(cls, own: str, other: str, pairs: Sequence[tuple[MeasuredModel, MeasuredModel]]) -> _Changes:
        first, second = pair_task(own, pairs), pair_task(other, pairs)
        _require_same_documents(first, second)
        return cls(
            first,
            second,
            _change(first, first.new - first.reference),
            _change(first, second.new - second.reference),
            _change(first, second.new - first.reference),
        )

    def reading(self, reference: str, new: str, p_own: float, p_across: float, margin: float) -> FormatReading:
        """p_own, p_across: of those two differences, corrected for the other tasks."""
        better = self.own.first.higher_is_better
        own = retained_verdict(self.own_change, p_own, margin, better).word
        across = retained_verdict(self.across, p_across, margin, better).word
        reading: Reading = "open"
        if own == "retained":
            reading = "kept"
        elif own == "forgot":
            reading = {"retained": "hidden", "forgot": "forgotten"}.get(across, "open")  # type: ignore[assignment]
        return FormatReading(
            reference=reference,
            new=new,
            own=self.own.first.task,
            other=self.other.first.task,
            own_values=_values(self.own),
            other_values=_values(self.other),
            own_change=self.own_change,
            other_change=self.other_change,
            across=self.across,
            margin=margin,
            reading=reading,
        )


def _values(paired: PairedTask) -> tuple[float, float]:
    return float(np.mean(paired.reference)), float(np.mean(paired.new))


def _change(paired: PairedTask, differences: np.ndarray) -> Estimate:
    """With its interval; for 0/1 scores of which none changed, the interval that so many items allow."""
    estimate = crossed(differences, paired.first.clusters)
    return widen_if_unchanged(estimate) if paired.binary else estimate


def _require_same_documents(first: PairedTask, second: PairedTask) -> None:
    """Pairing keys are sorted by document, and prompts come last in them."""
    documents = [[key[:3] for key in task.first.keys] for task in (first, second)]
    if documents[0] != documents[1]:
        where, what = f"tasks {first.first.task} and {second.first.task}", "do not hold the same documents"
        raise SuiteError(where, what, "one task in two formats", "evaluate the models again")
