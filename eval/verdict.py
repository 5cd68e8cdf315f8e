"""From an estimate and a margin to a verdict, and what it would take to settle an open one."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import brentq
from scipy.special import gammaincinv, nctdtr, nctdtrinc, ndtr, stdtrit

from eval.statistics import Estimate, Interval, MeanSquares, Parts

Word = Literal["forgot", "retained", "gained", "lost", "unchanged", "inconclusive"]
SIGNIFICANT = 0.05
POWER = 0.8
QUANTILES = (np.arange(200) + 0.5) / 200
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


def detectable(se: float, df: float) -> float:
    """The true difference that a two-sided t test at 5 % finds four times in five, exactly: by the noncentral t."""
    return float(nctdtrinc(df, 1 - POWER, stdtrit(df, 1 - SIGNIFICANT / 2)) * se)


def power(parts: Parts, difference: float) -> float:
    """How often a study of these variance components finds a true difference at 5 %, on its side.

    One seed: exactly, by the noncentral t. Several: the seeds' mean square, which few seeds leave vague, runs through
    its chi-square distribution; those of the many items count as known.
    """
    if parts.of_one:
        return 0.0
    if parts.n_seeds == 1 or parts.seeds == 0:
        [(se, df)] = parts.rulers()
        return float(1 - nctdtr(df, difference / se, stdtrit(df, 1 - SIGNIFICANT / 2)))
    freedom, variance = parts.n_seeds - 1, parts.variance()
    seeds = parts.seeds * 2 * gammaincinv(freedom / 2, QUANTILES) / freedom
    seen = np.maximum(seeds + parts.items - parts.error, np.maximum(seeds, parts.items))
    others = variance**2 / parts.degrees() - parts.seeds**2 / freedom  # what items and error add below the degrees
    df = seen**2 / (seeds**2 / freedom + others)
    needed = np.maximum(
        stdtrit(df, 1 - SIGNIFICANT / 2) * np.sqrt(seen), stdtrit(freedom, 1 - SIGNIFICANT / 2) * np.sqrt(seeds)
    )
    return float(ndtr((difference - needed) / math.sqrt(variance)).mean())


def detectable_difference(estimate: Estimate) -> float:
    """What a study like this one finds four times in five."""
    if math.isinf(estimate.se):
        return math.inf
    if estimate.method == "crossed":
        return detectable_at(estimate.parts)
    return detectable(estimate.se, estimate.df)


def detectable_at(parts: Parts) -> float:
    """The difference that a study of these variance components finds four times in five."""
    least = math.sqrt(parts.variance())  # found less often, whatever the degrees of freedom
    most = 2 * max(detectable(se, df) for se, df in parts.rulers())
    return float(brentq(lambda difference: power(parts, difference) - POWER, least, most))  # type: ignore[arg-type]


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
    if margin == 0 or math.isinf(estimate.se):
        return []
    parts = estimate.parts
    units = sum(task.n_items for task in parts.tasks)
    per_unit = (n_items or units) / units
    if estimate.se == 0:  # nothing changed: as many unchanged items as put the bound of such a table within the margin
        total = math.log(0.05) / math.log(1 - min(margin, 0.99))
        return [Design(parts.n_seeds, math.ceil(total * per_unit / len(parts.tasks)))]
    each = max(1, round(units * per_unit / len(parts.tasks)))

    def settles(seeds: int, item_factor: float) -> bool:
        return power(_extended(parts, seeds / parts.n_seeds, item_factor), margin) >= POWER

    def items_needed(seeds: int) -> Design:
        factor = ITEM_FACTORS[bisect_left(ITEM_FACTORS, True, key=lambda factor: settles(seeds, factor))]
        return Design(seeds, math.ceil(each * factor))

    now, most = parts.n_seeds, ITEM_FACTORS[-1]
    designs = [items_needed(now)] if settles(now, most) else []
    if now == 1:
        return designs
    more = range(now + 1, MORE_SEEDS + 1)
    if settles(MORE_SEEDS, 1.0):
        designs.append(Design(more[bisect_left(more, True, key=lambda seeds: settles(seeds, 1.0))], each))
    if not designs and settles(MORE_SEEDS, most):
        designs.append(items_needed(more[bisect_left(more, True, key=lambda seeds: settles(seeds, most))]))
    return designs


def _extended(parts: Parts, seed_factor: float, item_factor: float) -> Parts:
    """With so many times more seeds and items, at the present variance components."""
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
    return Parts(seeds_share, tuple(tasks))
