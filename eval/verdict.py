"""From an estimate and a margin to a verdict, and what it would take to settle an open one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from scipy.special import stdtrit

from eval.statistics import Estimate, Interval, MeanSquares, Parts

Word = Literal["forgot", "retained", "gained", "lost", "unchanged", "inconclusive"]
SIGNIFICANT = 0.05
ITEM_FACTORS = [1.1**k for k in range(42)]  # up to 50 times the present number: beyond it "more items" is no advice
MORE_SEEDS = 50


@dataclass(frozen=True)
class Verdict:
    """`note` qualifies a retained task: "small loss" or "gain"."""

    word: Word
    note: str = ""

    def __str__(self) -> str:
        return f"{self.word} ({self.note})" if self.note else self.word


def gain_interval(interval: Interval, higher_is_better: bool) -> Interval:
    """An interval of the raw difference, turned so that negative is worse."""
    return interval if higher_is_better else (-interval[1], -interval[0])


def retained_verdict(estimate: Estimate, p_adjusted: float, margin: float, higher_is_better: bool = True) -> Verdict:
    """Did the model forget? An equivalence test against the margin, not "p above .05".

    retained: the lower 90 % bound of the gain is above -margin; noted as "small loss" when the loss is nevertheless
    significant. forgot: significantly below 0 (after correction) and the lower 90 % bound reaches -margin. Otherwise
    inconclusive.
    """
    gain = estimate.value if higher_is_better else -estimate.value
    low, _ = gain_interval(estimate.ci90, higher_is_better)
    significant = p_adjusted < SIGNIFICANT
    if low > -margin:
        return Verdict("retained", ("small loss" if gain < 0 else "gain") if significant and gain else "")
    return Verdict("forgot") if significant and gain < 0 else Verdict("inconclusive")


def target_verdict(estimate: Estimate, p_adjusted: float, margin: float, higher_is_better: bool = True) -> Verdict:
    """Did the model learn? gained or lost: significant, by more than the margin is not asked; unchanged: the 90 %
    interval lies within the margin on both sides; otherwise inconclusive."""
    gain = estimate.value if higher_is_better else -estimate.value
    if p_adjusted < SIGNIFICANT and gain:
        return Verdict("gained" if gain > 0 else "lost")
    low, high = estimate.ci90
    return Verdict("unchanged") if -margin < low and high < margin else Verdict("inconclusive")


def p_retained(estimate: Estimate, margin: float, higher_is_better: bool = True) -> float:
    """One-sided p of "the loss is the margin or more" (non-inferiority test): below .05 where the verdict is retained."""
    return estimate.p_above(-margin) if higher_is_better else estimate.p_below(margin)


def p_equivalent(estimate: Estimate, margin: float) -> float:
    """p of "the difference is the margin or more, either way": two one-sided tests (TOST, Schuirmann 1987)."""
    return max(estimate.p_above(-margin), estimate.p_below(margin))


def detectable(se: float, df: float, power: float = 0.8) -> float:
    """The true difference that a two-sided test at 5 % finds with that power: (t_.975 + t_power) * se."""
    return float((stdtrit(df, 1 - SIGNIFICANT / 2) + stdtrit(df, power)) * se)


@dataclass(frozen=True)
class Design:
    """How many seeds, and how many items a task."""

    seeds: int
    items: int


def settling_designs(estimate: Estimate, margin: float, n_items: int | None = None) -> list[Design]:
    """Small designs whose detectable effect is the margin: more items at the same seeds, more seeds at the same items, or,
    where neither is enough alone, the fewest seeds with more items.

    n_items: of all tasks together, where clusters gather them; None = each stands alone. With one seed the variance
    between seeds is unknown, so only items are counted and the answer holds for this checkpoint alone. Empty where
    nothing within reach would do.
    """
    if margin == 0:
        return []
    parts = estimate.parts
    units = sum(task.n_items for task in parts.tasks)
    per_unit = (n_items or units) / units
    if estimate.se == 0:  # nothing changed: as many unchanged items as put the bound of such a table within the margin
        total = math.log(0.05) / math.log(1 - min(margin, 0.99))
        return [Design(parts.n_seeds, math.ceil(total * per_unit / len(parts.tasks)))]
    each = max(1, round(units * per_unit / len(parts.tasks)))

    def items_needed(seeds: int) -> Design | None:
        factors = (f for f in ITEM_FACTORS if _effect_at(parts, seeds / parts.n_seeds, f) <= margin)
        return next((Design(seeds, math.ceil(each * factor)) for factor in factors), None)

    designs = [design] if (design := items_needed(parts.n_seeds)) else []
    if parts.n_seeds == 1:
        return designs
    more = range(parts.n_seeds + 1, MORE_SEEDS + 1)
    designs += [Design(s, each) for s in more if _effect_at(parts, s / parts.n_seeds, 1.0) <= margin][:1]
    return designs or [design for seeds in more if (design := items_needed(seeds))][:1]


def _effect_at(parts: Parts, seed_factor: float, item_factor: float) -> float:
    """The detectable effect if there were so many times more seeds and items, at the present variance components."""
    both = seed_factor * item_factor
    tasks = []
    for task in parts.tasks:
        error = task.error / both
        items = max(0.0, task.items - task.error) / item_factor + error
        if parts.n_seeds == 1:  # items and error cannot be told apart
            items = task.items / item_factor
        seeds, n_items = round(task.n_seeds * seed_factor), round(task.n_items * item_factor)
        tasks.append(MeanSquares(0.0, items, error, seeds, n_items))
    error_share = parts.error / both
    seeds_share = max(0.0, parts.seeds - parts.error) / seed_factor + error_share if parts.n_seeds > 1 else 0.0
    future = Parts(seeds_share, tuple(tasks))
    return detectable(math.sqrt(future.variance()), future.degrees())
