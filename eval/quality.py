"""Beside right and wrong: calibration of multiple choice and diversity of sampled answers, by arm and against the reference.

Computed from `items.parquet` alone. Descriptive: intervals, but no verdicts, and no part in the correction for many tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from eval.bootstrap import resampled_means, seed_draws
from eval.calibration import Bin, Judged, ece, gaps, judge, reliability
from eval.compare import arms_by_name, compared_pairs
from eval.diversity import Distinct, distinct, unique_share, within_prompts
from eval.pairing import pair_seeds, require_same_items, require_same_settings
from eval.results import MeasuredModel, ReportInput, TaskItems
from eval.statistics import Interval, crossed

MEASURES = {  # name: what it says, whether more of it is better; None = a matter of taste
    "ece": ("calibration error", False),
    "brier": ("Brier score", False),
    "nll": ("−log p of the right choice, nats", False),
    "distinct-1": ("different words", None),
    "distinct-2": ("different pairs of words", None),
    "distinct-3": ("different triples of words", None),
    "unique": ("different answers", None),
    "prompt distinct-2": ("different pairs of words among the answers to a prompt", None),
    "prompt unique": ("different answers to a prompt", None),
}
_REPLICATES = 2000
_ITEM_MEANS: Mapping[str, Callable[[Judged], np.ndarray]] = {"brier": lambda j: j.brier, "nll": lambda j: j.nll}
_COUNTS: Mapping[str, Callable[[Sequence[str]], Distinct]] = {
    "distinct-1": partial(distinct, n=1),
    "distinct-2": partial(distinct, n=2),
    "distinct-3": partial(distinct, n=3),
    "unique": unique_share,
}


@dataclass(frozen=True)
class Quality:
    """One measure of an arm on one task. value: mean over seeds. bins: for `ece`, over all seeds together."""

    stage: str
    task: str
    measure: str
    value: float
    per_seed: tuple[tuple[int, float], ...]
    n: int
    bins: tuple[Bin, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The entry of `results.json`."""
        return asdict(self) | {"higher_is_better": MEASURES[self.measure][1]}


@dataclass(frozen=True)
class QualityChange:
    """`new` minus `reference` of one measure on one task, paired by item. method: of the interval, "crossed" and the like (a mean
    over items), "jackknife" (distinct-n) or "bootstrap" (ECE, too narrow with few seeds)."""

    reference: str
    new: str
    task: str
    measure: str
    delta: float
    ci: Interval
    ci_method: str
    n: int
    n_seeds: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def quality(report: ReportInput) -> list[Quality]:
    """All that is defined for an arm and a task: calibration where one choice is right, diversity where answers are sampled."""
    found = []
    for stage, models in arms_by_name(report.models).items():
        for task in models[0].tasks:
            if all(task in model.tasks for model in models):
                found += _of_arm(stage, task, models)
    return found


def quality_changes(report: ReportInput) -> list[QualityChange]:
    """The changes of every comparison that the report makes."""
    arms = arms_by_name(report.models)
    return [
        change
        for reference, new in compared_pairs(report)
        for task in report.roles
        for change in _change_of(task, pair_seeds(arms[reference], arms[new]))
    ]


def judged_items(items: TaskItems) -> Judged | None:
    """None where the task has no single right choice, or is scored by something else than its likeliest one."""
    lls, gold = items.rows["choice_lls"].to_pylist(), items.rows["gold_choice"].to_pylist()
    if any(place is None or not each or len(each) < 2 for each, place in zip(lls, gold, strict=True)):
        return None
    if not all(math.isfinite(number) for each in lls for number in each):
        return None
    judged = judge(lls, gold)
    return judged if np.array_equal(judged.hit, items.scores) else None


def _of_arm(stage: str, task: str, models: Sequence[MeasuredModel]) -> list[Quality]:
    every = [model.tasks[task] for model in models]
    n = len(every[0].keys)

    def entry(measure: str, values: Sequence[float], bins: Sequence[Bin] = ()) -> Quality:
        per_seed = tuple((model.seed, float(value)) for model, value in zip(models, values, strict=True))
        return Quality(stage, task, measure, float(np.mean(values)), per_seed, n, tuple(bins))

    judged = [each for items in every if (each := judged_items(items)) is not None]
    found = []
    if len(judged) == len(every):
        together = Judged(*(np.concatenate(column) for column in zip(*map(_columns, judged), strict=True)))
        found.append(entry("ece", [ece(each) for each in judged], reliability(together)))
        found += [entry(name, [of(each).mean() for each in judged]) for name, of in _ITEM_MEANS.items()]
    if all(_sampled(items) for items in every):
        answers = [items.rows["output"].to_pylist() for items in every]
        found += [entry(name, [of(texts).value for texts in answers]) for name, of in _COUNTS.items()]
    samples = [_samples(items) for items in every]
    if all(each is not None for each in samples):
        by_prompt = [_by_prompt(each) for each in samples if each is not None]
        found += [entry(name, [each[name].mean() for each in by_prompt]) for name in by_prompt[0]]
    return [each for each in found if math.isfinite(each.value)]


def _change_of(task: str, pairs: Sequence[tuple[MeasuredModel, MeasuredModel]]) -> list[QualityChange]:
    for reference, new in pairs:
        require_same_settings(task, reference, new)
        require_same_items(task, reference, new)
    sides = [[pair[side].tasks[task] for pair in pairs] for side in (0, 1)]
    clusters = sides[1][0].clusters
    found: dict[str, tuple[float, Interval, str]] = {}
    judged = [[judged_items(items) for items in side] for side in sides]
    if all(each is not None for side in judged for each in side):
        before, after = ([each for each in side if each is not None] for side in judged)
        found["ece"] = _ece_change(before, after, clusters)
        for name, of in _ITEM_MEANS.items():
            found[name] = _mean_change([of(each) for each in before], [of(each) for each in after], clusters)
    if all(_sampled(items) for side in sides for items in side):
        texts = [[items.rows["output"].to_pylist() for items in side] for side in sides]
        for name, of in _COUNTS.items():
            counted = [[of(answers) for answers in side] for side in texts]
            found[name] = _count_change(counted[0], counted[1], clusters)
    samples = [[_samples(items) for items in side] for side in sides]
    if all(each is not None for side in samples for each in side):
        before, after = ([_by_prompt(each) for each in side if each is not None] for side in samples)
        for name in before[0]:
            found[name] = _mean_change([each[name] for each in before], [each[name] for each in after], clusters)
    names = pairs[0][0].stage, pairs[0][1].stage
    size = len(sides[0][0].keys), len(pairs)
    return [
        QualityChange(*names, task, measure, *change, *size)
        for measure, change in found.items()
        if math.isfinite(change[0])
    ]


def _mean_change(
    before: Sequence[np.ndarray], after: Sequence[np.ndarray], clusters: Any
) -> tuple[float, Interval, str]:
    """`[S][n]` of each side."""
    estimate = crossed(np.stack(after) - np.stack(before), clusters)
    return estimate.value, estimate.ci95, estimate.method


def _count_change(before: Sequence[Distinct], after: Sequence[Distinct], clusters: Any) -> tuple[float, Interval, str]:
    """The interval of the pseudo-values, put around the difference itself."""
    value = float(np.mean([new.value - old.value for old, new in zip(before, after, strict=True)]))
    spread = crossed(
        np.stack([new.influence - old.influence for old, new in zip(before, after, strict=True)]), clusters
    )
    low, high = (value + end - spread.value for end in spread.ci95)
    return value, (low, high), "jackknife"


def _ece_change(before: Sequence[Judged], after: Sequence[Judged], clusters: Any) -> tuple[float, Interval, str]:
    """Seeds and items are drawn again, the same for both sides; each seed's error is computed on the drawn items."""
    sides = [np.stack([gaps(each) for each in side]) for side in (before, after)]  # [S, bins, n] each
    n_seeds, bins, n_items = sides[0].shape
    rng = np.random.default_rng(0)
    rows = np.concatenate(sides).reshape(1, -1, n_items)
    draws = resampled_means(rows, np.ones((_REPLICATES, 1)), rng, clusters).reshape(_REPLICATES, 2, n_seeds, bins)
    errors = np.abs(draws).sum(-1)
    changes = np.einsum("rs,rs->r", errors[:, 1] - errors[:, 0], seed_draws(n_seeds, _REPLICATES, rng))
    low, high = (float(q) for q in np.quantile(changes, [0.025, 0.975]))
    value = float(np.mean([ece(new) - ece(old) for old, new in zip(before, after, strict=True)]))
    return value, (low, high), "bootstrap"


def _columns(judged: Judged) -> tuple[np.ndarray, ...]:
    return judged.confidence, judged.hit, judged.brier, judged.nll


def _sampled(items: TaskItems) -> bool:
    return bool(items.about.get("sampled")) and all(text is not None for text in items.rows["output"].to_pylist())


def _samples(items: TaskItems) -> list[list[str]] | None:
    """Several answers to every prompt, or None."""
    samples = items.rows["samples"].to_pylist()
    return samples if samples and all(each and len(each) > 1 for each in samples) else None


def _by_prompt(samples: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """`[P]` each."""
    unique = np.array([unique_share(answers).value for answers in samples])
    return {"prompt distinct-2": within_prompts(samples, 2), "prompt unique": unique}
