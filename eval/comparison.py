"""The result of a comparison: one row per task, one per group of tasks, one object per pair of arms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eval.config import Role
from eval.results import GROUP
from eval.statistics import Estimate, Interval
from eval.transitions import Transitions
from eval.verdict import Design, Verdict, detectable_difference, gain_interval, p_equivalent, p_retained

Correction = Literal["holm", "fdr_bh", "none"]
OPEN = Verdict("inconclusive")


@dataclass(frozen=True)
class TaskComparison:
    """One row of a comparison. Raw orientation: `delta` = new - reference; `gain` turns it so that negative is worse.

    tasks: the members, for a group. f, b and the transitions are None for scores that are not 0/1. retention is None
    where the reference is not above chance. margin_change: mean paired change of ll_gold - max ll_other, in nats.
    """

    reference: str
    new: str
    task: str
    role: Role
    metric: str
    higher_is_better: bool
    tasks: tuple[str, ...]
    n: int
    n_seeds: int
    reference_value: float
    new_value: float
    per_seed: tuple[tuple[int, float], ...]
    estimate: Estimate
    p: float
    margin: float
    p_adjusted: float = 1.0
    p_method: Correction = "none"
    verdict: Verdict = OPEN
    transitions: Transitions | None = None
    chance: float | None = None
    churn_floor: float | None = None
    retention: float | None = None
    margin_change: Estimate | None = None
    designs: tuple[Design, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def is_group(self) -> bool:
        return self.task.startswith(GROUP)

    @property
    def delta(self) -> float:
        return self.estimate.value

    @property
    def gain(self) -> float:
        return self.delta if self.higher_is_better else -self.delta

    @property
    def gain_ci(self) -> Interval:
        return gain_interval(self.estimate.ci95, self.higher_is_better)

    @property
    def scope(self) -> Literal["checkpoint", "method"]:
        return "method" if self.n_seeds > 1 else "checkpoint"

    @property
    def mde80(self) -> float | None:
        return detectable_difference(self.estimate) if self.estimate.se > 0 else None

    @property
    def p_retained(self) -> float:
        """Of "the loss is the margin or more": small where the skill is shown to be kept."""
        return p_retained(self.estimate, self.margin, self.higher_is_better)

    @property
    def p_equivalent(self) -> float:
        """Of "the difference is the margin or more, either way"."""
        return p_equivalent(self.estimate, self.margin)

    @property
    def guessing(self) -> float | None:
        return self.transitions.guessing(self.chance) if self.transitions else None

    @property
    def f_adj(self) -> float | None:
        return None if self.guessing is None or not self.transitions else self.transitions.forgetting - self.guessing

    @property
    def b_adj(self) -> float | None:
        return (
            None
            if self.guessing is None or not self.transitions
            else self.transitions.backward_transfer - self.guessing
        )

    def as_json(self) -> dict[str, Any]:
        """The row of `results.json`."""
        counts = self.transitions
        return {
            "reference": self.reference,
            "new": self.new,
            "task": self.task,
            "metric": self.metric,
            "delta": self.delta,
            "ci": list(self.estimate.ci95),
            "ci_method": self.estimate.method,
            "scope": self.scope,
            "n": self.n,
            "n_seeds": self.n_seeds,
            **{key: getattr(counts, key) if counts else None for key in ("n11", "n10", "n01", "n00")},
            "f_adj": self.f_adj,
            "churn_floor": self.churn_floor,
            "p": self.p,
            "p_adjusted": self.p_adjusted,
            "p_method": self.p_method,
            "p_retained": self.p_retained,
            "p_equivalent": self.p_equivalent,
            "mde80": self.mde80,
            "margin": self.margin,
            "verdict": self.verdict.word,
            "warnings": list(self.warnings) + ([self.verdict.note] if self.verdict.note else []),
        }


@dataclass(frozen=True)
class ArmComparison:
    """Arm `new` against arm `reference`: one row per task, and one per role that has several comparable tasks.

    kinds: why it was made, of "base", "parent", "contrast".
    """

    reference: str
    new: str
    seeds: tuple[int, ...]
    rows: tuple[TaskComparison, ...]
    groups: tuple[TaskComparison, ...]
    warnings: tuple[str, ...]
    kinds: frozenset[str] = frozenset()

    def headline(self, role: Role) -> TaskComparison | None:
        """The role's group, its only task, or None when there is nothing that could be averaged."""
        rows = [row for row in self.rows if row.role == role]
        group = next((row for row in self.groups if row.role == role), None)
        return group or (rows[0] if len(rows) == 1 else None)

    def shown(self, role: Role) -> TaskComparison | None:
        """What a table of one line per comparison shows of a role: its headline, else the task that lost most."""
        rows = [row for row in self.rows if row.role == role]
        return self.headline(role) or min(rows, key=lambda row: row.gain, default=None)

    @property
    def scope_caption(self) -> str:
        if len(self.seeds) == 1:
            return "this checkpoint, new items; no claim about the method"
        return f"{len(self.seeds)} training seeds: the method, new items and new seeds"


@dataclass(frozen=True)
class Results:
    """What `build_report` made: the comparisons, the document `results.json` and the page."""

    recipe: str
    question: str
    arms: tuple[ArmComparison, ...]
    data: Mapping[str, Any]
    page: Path
    warnings: tuple[str, ...] = ()
