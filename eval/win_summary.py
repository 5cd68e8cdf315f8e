"""What finished `win_rate` cells say together: the share of wins, crossed over seeds and prompts, with and without length."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq

from alignment.core.errors import SuiteError
from eval import statistics
from eval.length_control import LengthControlled, length_controlled
from eval.statistics import Interval
from eval.transitions import Transitions, mcnemar
from eval.verdict import target_verdict
from eval.win_rate_files import ABOUT, PAIRS

Word = Literal["wins", "loses", "even", "inconclusive"]
MARGIN = 0.05
_WORDS: dict[str, Word] = {"gained": "wins", "lost": "loses", "unchanged": "even", "inconclusive": "inconclusive"}


@dataclass(frozen=True)
class JudgedCell:
    """A finished cell: `new`'s answers against `reference`'s, at one seed."""

    reference: str
    new: str
    seed: int
    folder: Path

    @cached_property
    def pairs(self) -> list[dict[str, Any]]:
        """Rows of `pairs.parquet` (columns: eval/win_rate_files.py), read once."""
        return pq.read_table(self.folder / PAIRS).to_pylist()

    @property
    def judge(self) -> str:
        return json.loads((self.folder / ABOUT).read_text())["judge"]


@dataclass(frozen=True)
class Orders:
    """How a judge that is shown both answers took their order. contradicted: pairs where it chose another side in the other
    order. first: share of its choices that fell on the answer shown first; half without bias, None without choices."""

    pairs: int
    contradicted: int
    first: float | None


@dataclass(frozen=True)
class WinResult:
    """How often `new` beats `reference`; a tie is half a win. n: prompts with a verdict at every seed, the only ones counted.

    no_verdict: pairs, over all seeds, that the judge left without one. per_seed: (seed, share). length: mean characters of the
    reference's and of the new answers.
    """

    reference: str
    new: str
    judge: str
    n: int
    n_seeds: int
    value: float
    ci95: Interval
    ci_method: str
    p: float
    verdict: Word
    wins: int
    ties: int
    losses: int
    no_verdict: int
    per_seed: tuple[tuple[int, float], ...]
    length: tuple[float, float]
    controlled: LengthControlled | None
    orders: Orders | None
    cells: tuple[JudgedCell, ...]
    p_adjusted: float = 1.0

    @property
    def scope(self) -> Literal["checkpoint", "method"]:
        return "method" if self.n_seeds > 1 else "checkpoint"

    @property
    def warnings(self) -> list[str]:
        notes = []
        if self.no_verdict:
            notes.append(f"the judge gave no verdict on {self.no_verdict} pairs: their prompts are left out")
        if self.controlled is None:
            notes.append("no length-controlled rate: one side always wins, or length alone tells who does")
        if self.orders and self.orders.contradicted:
            share = self.orders.contradicted / self.orders.pairs
            notes.append(
                f"position bias: the judge contradicts itself on {100 * share:.0f} % of the pairs, counted as ties"
            )
        return notes

    def as_json(self) -> dict[str, Any]:
        """The entry of `results.json`."""
        copied = (
            "reference",
            "new",
            "judge",
            "n",
            "n_seeds",
            "ci_method",
            "scope",
            "wins",
            "ties",
            "losses",
            "no_verdict",
            "p",
        )
        controlled, orders = self.controlled, self.orders
        return {
            **{name: getattr(self, name) for name in copied},
            "win_rate": self.value,
            "ci": list(self.ci95),
            "p_adjusted": self.p_adjusted,
            "verdict": self.verdict,
            "per_seed": [list(pair) for pair in self.per_seed],
            "length": list(self.length),
            "length_controlled": {"win_rate": controlled.value, "ci": list(controlled.ci95)} if controlled else None,
            "order": {"contradicted": orders.contradicted, "first_preferred": orders.first} if orders else None,
            "warnings": self.warnings,
        }


def win_rates(declared: Sequence[Sequence[JudgedCell]], margin: float = MARGIN) -> tuple[WinResult, ...]:
    """One result per declared win rate, from its cells at every seed; p corrected by Holm over those declared.

    margin: how far from one half still counts as even. Raises SuiteError when the seeds were not asked the same prompts.
    """
    found = [_win_rate(cells) for cells in declared]
    adjusted = statistics.adjust([estimate.p for _, estimate in found], "holm")
    return tuple(
        replace(rate, p_adjusted=p, verdict=_WORDS[target_verdict(estimate, p, margin).word])
        for (rate, estimate), p in zip(found, adjusted, strict=True)
    )


def _win_rate(cells: Sequence[JudgedCell]) -> tuple[WinResult, statistics.Estimate]:
    """The result but for its verdict, and the estimate of its distance from one half."""
    first, keys = cells[0], _keys(cells[0])
    for cell in cells[1:]:
        if _keys(cell) != keys:
            where = f"win rate of {cell.new} against {cell.reference}"
            what = f"seed {cell.seed} was asked other prompts than seed {first.seed}"
            raise SuiteError(where, what, "the same prompts at every seed", "give their stage a fixed seed: 0")
    every = np.array([[np.nan if row["win"] is None else row["win"] for row in cell.pairs] for cell in cells])
    counted = ~np.isnan(every).any(axis=0)
    if not counted.any():
        where = f"win rate of {first.new} against {first.reference}"
        raise SuiteError(where, "no prompt has a verdict at every seed", "at least one", "ask another judge")
    wins, lengths = every[:, counted], _lengths(cells)[..., counted]
    estimate = _estimate(wins)
    low, high = (float(np.clip(0.5 + bound, 0, 1)) for bound in estimate.ci95)
    rate = WinResult(
        reference=first.reference,
        new=first.new,
        judge=first.judge,
        n=wins.shape[1],
        n_seeds=len(cells),
        value=0.5 + estimate.value,
        ci95=(low, high),
        ci_method=estimate.method,
        p=estimate.p,
        verdict="inconclusive",
        wins=int((wins > 0.5).sum()),
        ties=int((wins == 0.5).sum()),
        losses=int((wins < 0.5).sum()),
        no_verdict=int(np.isnan(every).sum()),
        per_seed=tuple((cell.seed, float(share)) for cell, share in zip(cells, wins.mean(1), strict=True)),
        length=(float(lengths[0].mean()), float(lengths[1].mean())),
        controlled=length_controlled(wins, lengths[1] - lengths[0]),
        orders=_orders(cells),
        cells=tuple(cells),
    )
    return rate, estimate


def _estimate(wins: np.ndarray) -> statistics.Estimate:
    """Mean of win - 1/2 [S, n]. One checkpoint: p by the exact sign test, ties aside. Pairs that all say the same leave what
    so many alike still allow (the "rule of three")."""
    estimate = statistics.crossed(wins - 0.5)
    if len(wins) == 1:
        decided = Transitions(0, int((wins < 0.5).sum()), int((wins > 0.5).sum()), 0)
        estimate = replace(estimate, p=mcnemar(decided))
    if estimate.se > 0:
        return estimate
    at, n = estimate.value, wins.shape[1]
    bounds = [statistics.no_change_bound(n, level) for level in (0.95, 0.90)]
    ci95, ci90 = ((max(-0.5, at - bound), min(0.5, at + bound)) for bound in bounds)
    return replace(estimate, ci95=ci95, ci90=ci90, p=min(1.0, 2 * 0.5**n) if at else 1.0)


def _keys(cell: JudgedCell) -> list[str]:
    return [row["prompt_hash"] for row in cell.pairs]


def _lengths(cells: Sequence[JudgedCell]) -> np.ndarray:
    """[2, S, n] characters: tokens of two models need not be alike."""
    sides = ("reference_answer", "new_answer")
    return np.array([[[len(row[side]) for row in cell.pairs] for cell in cells] for side in sides], float)


def _orders(cells: Sequence[JudgedCell]) -> Orders | None:
    names = ("verdict_reference_first", "verdict_new_first")
    asked = [
        tuple(row[name] for name in names) for cell in cells for row in cell.pairs if row["reply_new_first"] is not None
    ]
    if not asked:
        return None
    both = [pair for pair in asked if None not in pair]
    contradicted = sum(set(pair) == {"reference", "new"} for pair in both)
    firsts = [pair[0] == "reference" for pair in both if pair[0] != "tie"] + [
        pair[1] == "new" for pair in both if pair[1] != "tie"
    ]
    return Orders(len(both), contradicted, sum(firsts) / len(firsts) if firsts else None)
