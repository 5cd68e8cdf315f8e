"""Items that were right (1) or wrong (0) before and after: what was forgotten, what was learned, what is mere churn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Transitions:
    """How often an item was right (1) or wrong (0) before and after, over all seeds and items."""

    n11: int
    n10: int
    n01: int
    n00: int

    @property
    def n(self) -> int:
        return self.n11 + self.n10 + self.n01 + self.n00

    @property
    def forgetting(self) -> float:
        """F: the share that was right and became wrong (arXiv 2510.17776)."""
        return self.n10 / self.n

    @property
    def backward_transfer(self) -> float:
        """B: the share that was wrong and became right."""
        return self.n01 / self.n

    def guessing(self, chance: float | None) -> float | None:
        """What independent guesses alone would add to F and to B: (1 - a0)(1 - a1) / (k - 1) with k = 1 / chance
        choices.

        Subtracted unclipped; it over-corrects for near-identical models. None where chance is unknown or 0.
        """
        if not chance or chance >= 1:
            return None
        right_before, right_after = (self.n11 + self.n10) / self.n, (self.n11 + self.n01) / self.n
        return (1 - right_before) * (1 - right_after) / (1 / chance - 1)


def transitions(reference: np.ndarray, new: np.ndarray) -> Transitions:
    """Counts over `[S, n]` tables of 0/1 scores."""
    before, after = np.asarray(reference) > 0.5, np.asarray(new) > 0.5
    pairs = ((before & after), (before & ~after), (~before & after), (~before & ~after))
    return Transitions(*(int(pair.sum()) for pair in pairs))


def churn_floor(scores: np.ndarray) -> float | None:
    """F (and B: they are equal here) between two training seeds of one arm, `scores[S, n]` of 0/1: mean disagreement
    / 2."""
    n_seeds = len(scores)
    if n_seeds < 2:
        return None
    pairs = [np.mean(scores[i] != scores[j]) / 2 for i in range(n_seeds) for j in range(i)]
    return float(np.mean(pairs))


def mcnemar(counts: Transitions) -> float:
    """Exact two-sided McNemar test of 0/1 scores on the same items."""
    from scipy import stats

    changed = counts.n10 + counts.n01
    return 1.0 if changed == 0 else float(stats.binomtest(counts.n10, changed, 0.5).pvalue)
