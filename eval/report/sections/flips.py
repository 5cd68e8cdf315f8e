"""The answers that were right before and wrong after: what forgetting looks like, read item by item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.comparison import ArmComparison
from eval.pairing import pair_seeds
from eval.report.page import Page, Section
from eval.results import MeasuredModel, TaskItems

LONGEST = 600  # characters of a text shown


def section(page: Page) -> Section | None:
    groups = []
    for arm in page.ordered:
        a, b = ([model for model in page.report.models if model.stage == name] for name in (arm.reference, arm.new))
        if flips := worst_flips(arm, a, b):
            groups.append((arm, flips))
    return page.section("flips", "Right before, wrong after", groups=groups) if groups else None


@dataclass(frozen=True)
class Flip:
    """One item. seed: of the run whose answer is shown; seeds: how many of `n_seeds` runs lost it."""

    task: str
    prompt: str
    target: str
    before: str
    after: str
    seed: int
    seeds: int
    n_seeds: int


def worst_flips(
    arm: ArmComparison, a: Sequence[MeasuredModel], b: Sequence[MeasuredModel], most: int = 6
) -> list[Flip]:
    """Right-to-wrong items of the 0/1 tasks, worst first: lost by most seeds, then by the largest drop of the gold
    margin.

    At most two of a task, so that one broken task does not hide the others.
    """
    pairs = pair_seeds(a, b)
    ranked = []
    for row in arm.rows:
        if row.transitions is None or row.role != "retained":
            continue
        sides = [(reference.tasks[row.task], new.tasks[row.task]) for reference, new in pairs]
        lost = np.stack([(old.scores > 0.5) & (new.scores <= 0.5) for old, new in sides])
        drops = np.stack([_drop(old, new) for old, new in sides])
        severity = lost.sum(0) + np.where(lost, _squashed(drops), 0).max(0) * 0.9
        for index in np.argsort(-severity)[:2]:
            if lost[:, index].any():
                seed = int(np.argmax(np.where(lost[:, index], drops[:, index], -np.inf)))
                ranked.append(
                    (float(severity[index]), _flip(row.task, sides[seed], arm.seeds[seed], lost[:, index], int(index)))
                )
    return [flip for _, flip in sorted(ranked, key=lambda entry: -entry[0])[:most]]


def _drop(old: TaskItems, new: TaskItems) -> np.ndarray:
    if old.gold_margins is None or new.gold_margins is None:
        return old.scores - new.scores
    return old.gold_margins - new.gold_margins


def _squashed(drops: np.ndarray) -> np.ndarray:
    """Into [0, 1), so that it orders items within a count of seeds and never across."""
    positive = np.maximum(drops, 0)
    return positive / (1 + positive)


def _flip(task: str, sides: tuple[TaskItems, TaskItems], seed: int, lost: np.ndarray, index: int) -> Flip:
    old, new = (side.rows.slice(index, 1).to_pylist()[0] for side in sides)
    texts = [_end(old["prompt"]), *(_start(text) for text in (old["target"], old["output"], new["output"]))]
    return Flip(task, *texts, seed=seed, seeds=int(lost.sum()), n_seeds=len(lost))


def _start(text: str | None) -> str:
    return "(no text)" if not text else text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def _end(text: str | None) -> str:
    """Of a long prompt the end matters: there the question stands."""
    return _start(text) if not text or len(text) <= LONGEST else f"… {text[-LONGEST:]}"
