"""What one arm gained and forgot against another: paired by item, crossed over seeds, with a verdict per task and per
group of tasks.

`align compare` and the report both call `compare_models`; `compare_all` makes the comparisons that a recipe asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from alignment.core.errors import RecipeError, SuiteError
from eval import statistics
from eval.bootstrap import ratio_change
from eval.comparison import ArmComparison, Correction, TaskComparison
from eval.config import Comparison, Role
from eval.pairing import PairedTask, bit_for_bit, pair_seeds, pair_task
from eval.results import GROUP, MeasuredModel, ReportInput
from eval.scales import on_one_scale
from eval.statistics import Estimate
from eval.transitions import churn_floor, mcnemar, transitions
from eval.verdict import Design, retained_verdict, settling_designs, target_verdict

CAVEAT = "bootstrap over documents and seeds: too narrow with few seeds"


def compare_models(
    a: Sequence[MeasuredModel],
    b: Sequence[MeasuredModel],
    comparison: Comparison | None = None,
    roles: Mapping[str, Role] | None = None,
) -> ArmComparison:
    """Compare reference `a` with new `b`, each the seeds of one arm.

    comparison: the margins. roles: the declared tasks, corrected by Holm; None = every task both sides have, with the
    roles written at evaluation, corrected by Benjamini-Hochberg because nobody declared them. SuiteError when the
    sides were not measured alike.
    """
    comparison, pairs = comparison or Comparison(), pair_seeds(a, b)
    correction: Literal["holm", "fdr_bh"] = "holm" if roles is not None else "fdr_bh"
    warnings = _arm_warnings(pairs)
    if roles is None:
        roles, left_out = _shared_tasks(pairs)
        warnings += [f"on one side only, not compared: {', '.join(left_out)}"] if left_out else []
    tasks = {task: pair_task(task, pairs) for task in roles}
    names, seeds = (a[0].stage, b[0].stage), _seeds_of(pairs)
    rows = [_row(names, seeds, roles[task], paired, _margin(comparison, paired)) for task, paired in tasks.items()]
    rows = _corrected(rows, correction)
    groups = [_judged(row, row.p, "none") for row in _groups(names, seeds, rows, tasks)]
    return ArmComparison(*names, seeds, tuple(rows), tuple(groups), tuple(warnings))


def compare_all(report: ReportInput) -> list[ArmComparison]:
    """All comparisons that the recipe asks for."""
    arms = arms_by_name(report.models)
    return [
        replace(compare_models(arms[a], arms[b], report.comparison, report.roles), kinds=frozenset(kinds))
        for (a, b), kinds in compared_pairs(report).items()
    ]


def arms_by_name(models: Sequence[MeasuredModel]) -> dict[str, list[MeasuredModel]]:
    """The seeds of every arm."""
    arms: dict[str, list[MeasuredModel]] = {}
    for model in models:
        arms.setdefault(model.stage, []).append(model)
    return arms


def compared_pairs(report: ReportInput) -> dict[tuple[str, str], set[str]]:
    """(reference, new) with the reasons: every arm against its base (the root of its chain of parents) and its parent, and the
    declared contrasts; each pair once. Raises RecipeError for an arm that was not evaluated."""
    arms = arms_by_name(report.models)
    pairs: dict[tuple[str, str], set[str]] = {}
    parents = {name: models[0].parent for name, models in arms.items()}
    for stage in arms:
        chain = ancestors(stage, parents)
        if chain:
            pairs.setdefault((chain[-1], stage), set()).add("base")
            pairs.setdefault((chain[0], stage), set()).add("parent")
    for reference, new in report.comparison.contrasts:
        for name in (reference, new):
            if name not in arms:
                where = f"{report.recipe}: comparison.contrasts"
                raise RecipeError(where, f"{name} was not evaluated", f"one of {', '.join(arms)}", "add it to models")
        pairs.setdefault((reference, new), set()).add("contrast")
    return pairs


def ancestors(stage: str, parents: Mapping[str, str | None]) -> list[str]:
    """Parent, grandparent, ... as far as they were evaluated."""
    chain: list[str] = []
    while (parent := parents.get(stage)) is not None and parent in parents and parent not in chain:
        chain.append(parent)
        stage = parent
    return chain


def _shared_tasks(pairs: Sequence[tuple[MeasuredModel, MeasuredModel]]) -> tuple[dict[str, Role], list[str]]:
    everyone = [model for pair in pairs for model in pair]
    shared = set.intersection(*(set(model.tasks) for model in everyone))
    if not shared:
        raise SuiteError(f"{everyone[0].name} and {everyone[1].name}", "have no task in common", "at least one")
    left_out = sorted(set.union(*(set(model.tasks) for model in everyone)) - shared)
    entries = {task: items.about.get("role", "retained") for task, items in everyone[0].tasks.items() if task in shared}
    return entries, left_out


def _arm_warnings(pairs: Sequence[tuple[MeasuredModel, MeasuredModel]]) -> list[str]:
    warnings = []
    for reference, new in pairs:
        if bit_for_bit(reference, new):
            same = f"{new.name} scores equal those of {reference.name} bit for bit"
            warnings.append(f"{same}: were its trained weights (or its adapter) loaded?")
    return warnings


def _seeds_of(pairs: Sequence[tuple[MeasuredModel, MeasuredModel]]) -> tuple[int, ...]:
    reference, new = zip(*pairs, strict=True)
    varied = new if len({id(model) for model in new}) == len(pairs) else reference
    return tuple(model.seed for model in varied)


def _margin(comparison: Comparison, paired: PairedTask) -> float:
    metric = paired.first.metric
    margin = comparison.margin_of(metric)
    if margin is None:
        raise RecipeError(
            f"task {paired.first.task}",
            f"no margin for {metric}",
            "the loss that counts as none",
            f"set comparison.margin.{metric}",
        )
    return margin


def _row(
    names: tuple[str, str], seeds: tuple[int, ...], role: Role, paired: PairedTask, margin: float
) -> TaskComparison:
    items, estimate = paired.first, task_estimate(paired)
    scale = 1.0 if paired.bytes is None else paired.new.shape[1] / paired.bytes.sum()  # mean of bits -> bits per byte
    by_seed = (paired.new - paired.reference).mean(1) * scale
    counts = transitions(paired.reference, paired.new) if paired.binary else None
    rights = counts if items.higher_is_better else None  # where a 1 is the worse answer there is no right and wrong
    trained = paired.new if paired.varied(1) else paired.reference
    exact = counts is not None and estimate.method == "paired"
    reference_value, chance = float(paired.reference.mean() * scale), items.about.get("chance")
    return TaskComparison(
        *names,
        task=items.task,
        role=role,
        metric=items.metric,
        higher_is_better=items.higher_is_better,
        tasks=(items.task,),
        n=paired.new.shape[1],
        n_seeds=len(seeds),
        reference_value=reference_value,
        new_value=reference_value + estimate.value,
        per_seed=tuple(zip(seeds, map(float, by_seed), strict=True)),
        estimate=estimate,
        p=mcnemar(counts) if counts and exact else estimate.p,
        margin=margin,
        transitions=rights,
        chance=chance,
        churn_floor=churn_floor(trained) if rights else None,
        retention=_retention(paired, reference_value, estimate.value, chance),
        margin_change=_margin_change(paired),
        warnings=tuple(_row_warnings(paired, estimate)),
    )


def task_estimate(paired: PairedTask) -> Estimate:
    """The difference of one task: a ratio for bits per byte, else a mean over seeds and items."""
    if paired.bytes is not None:
        return ratio_change(paired.reference, paired.new, paired.bytes, paired.first.clusters)
    estimate = statistics.crossed(paired.new - paired.reference, paired.first.clusters)
    return statistics.widen_if_unchanged(estimate) if paired.binary else estimate


def _retention(paired: PairedTask, before: float, delta: float, chance: float | None) -> float | None:
    """(a1 - c) / (a0 - c); None where the interval of a0 includes chance."""
    if chance is None or paired.bytes is not None:
        return None
    reference = paired.reference if paired.varied(0) else paired.reference[:1]
    low, _ = statistics.crossed(reference, paired.first.clusters).ci95
    return (before + delta - chance) / (before - chance) if low > chance else None


def _margin_change(paired: PairedTask) -> Estimate | None:
    changes = []
    for reference, new in paired.items:
        if reference.gold_margins is None or new.gold_margins is None:
            return None
        changes.append(new.gold_margins - reference.gold_margins)
    return statistics.crossed(np.stack(changes), paired.first.clusters)


def _row_warnings(paired: PairedTask, estimate: Estimate) -> list[str]:
    warnings = []
    if paired.binary and estimate.se == 0 and estimate.value == 0:
        warnings.append("no item changed: the interval is what so many items without a change still allow")
    truncated = max(int(items.about.get("truncated") or 0) for pair in paired.items for items in pair)
    if truncated:
        warnings.append(f"{truncated} of {paired.new.shape[1]} prompts were too long and cut from the left")
    if estimate.method == "bootstrap" and len(paired.items) > 1:
        warnings.append(CAVEAT)
    return warnings


def _groups(names, seeds, rows: Sequence[TaskComparison], tasks: Mapping[str, PairedTask]) -> list[TaskComparison]:
    """One row per role with two or more tasks, of those on one scale; never of bits per byte, nor where lower is better."""
    groups = []
    for role in ("target", "retained"):
        mine = [row for row in rows if row.role == role]
        upward = [row for row in mine if row.higher_is_better and row.metric != "bits_per_byte"]
        shared = on_one_scale({row.task: tasks[row.task].first for row in upward})
        members = [row for row in upward if row.task in shared]
        if len(mine) < 2 or not members:
            continue
        paired = [tasks[row.task] for row in members]
        estimate = statistics.group(
            [task.new - task.reference for task in paired], [task.first.clusters for task in paired]
        )
        if all(task.binary for task in paired):
            estimate = statistics.widen_if_unchanged(estimate)
        by_seed = np.mean([[delta for _, delta in row.per_seed] for row in members], axis=0)
        metrics = {row.metric for row in members}
        groups.append(
            TaskComparison(
                *names,
                task=f"{GROUP}{role}",
                role=role,
                metric=metrics.pop() if len(metrics) == 1 else "acc",
                higher_is_better=True,
                tasks=tuple(row.task for row in members),
                n=sum(row.n for row in members),
                n_seeds=len(seeds),
                reference_value=float(np.mean([row.reference_value for row in members])),
                new_value=float(np.mean([row.new_value for row in members])),
                per_seed=tuple(zip(seeds, map(float, by_seed), strict=True)),
                estimate=estimate,
                p=estimate.p,
                margin=min(row.margin for row in members),
            )
        )
    return groups


def _judged(row: TaskComparison, p_adjusted: float, correction: Correction) -> TaskComparison:
    judge = retained_verdict if row.role == "retained" else target_verdict
    verdict = judge(row.estimate, p_adjusted, row.margin, row.higher_is_better)
    designs = tuple(settling_designs(row.estimate, row.margin, row.n)) if verdict.word == "inconclusive" else ()
    advice = (_advice(row, designs),) if verdict.word == "inconclusive" else ()
    return replace(
        row,
        p_adjusted=p_adjusted,
        p_method=correction,
        verdict=verdict,
        designs=designs,
        warnings=row.warnings + advice,
    )


def _corrected(rows: Sequence[TaskComparison], correction: Literal["holm", "fdr_bh"]) -> list[TaskComparison]:
    """Extra tasks are explored: they are a family of their own, so that naming one costs the declared tasks no power."""
    declared = [row for row in rows if row.role != "extra"]
    explored = [row for row in rows if row.role == "extra"]
    families: list[tuple[list[TaskComparison], Literal["holm", "fdr_bh"]]] = [
        (declared, correction),
        (explored, "fdr_bh"),
    ]
    judged = []
    for family, method in families:
        adjusted = statistics.adjust([row.p for row in family], method)
        judged += [_judged(row, p, method) for row, p in zip(family, adjusted, strict=True)]
    return judged


def _advice(row: TaskComparison, designs: tuple[Design, ...]) -> str:
    """What would settle an open question, in words."""
    if not designs:
        return "nothing within reach would settle it: many more seeds and items"
    each = " a task" if row.is_group else ""
    ways = [f"{design.seeds} seed{'s' * (design.seeds > 1)} × {design.items:,} items{each}" for design in designs]
    items_help = any(design.seeds == row.n_seeds for design in designs)
    return f"would be settled by {' or '.join(ways)}{'' if items_help else '; more items alone would not do'}"
