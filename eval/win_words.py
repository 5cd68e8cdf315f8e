"""How a win rate reads, the same in the terminal and in the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eval import words


def win_line(row: Mapping[str, Any]) -> str:
    """One sentence. row: an entry of `win_rates` in `results.json`."""
    basis = f"{words.count(row['n'], 'prompt')}, {words.count(row['n_seeds'], 'seed')}; judge: {row['judge']}"
    text = f"{row['new']} wins {percent(row['win_rate'])} against {row['reference']} ({between(row['ci'])}; {basis})"
    if controlled := row["length_controlled"]:
        text += f"; at equal length {percent(controlled['win_rate'])} ({between(controlled['ci'])})"
    return f"{text}: {row['verdict']}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def between(bounds: tuple[float, float]) -> str:
    return f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}"
