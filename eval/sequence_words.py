"""Sequences and relearning in one line each, from their entries in `results.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eval import words

Entry = Mapping[str, Any]


def sequence_line(entry: Entry) -> str:
    """What one order, a mean over orders or a difference between methods says."""
    parts = []
    for key, name in (
        ("average_forgetting", "average forgetting"),
        ("bwt", "backward transfer"),
        ("fwt", "forward transfer"),
    ):
        number = entry[key]
        parts.append(f"{name} {words.signed('acc', number['value'])} ({words.interval('acc', number['ci'])})")
    basis = f"{words.count(len(entry['tasks']), 'task')}, {words.count(len(entry['seeds']), 'seed')}"
    return f"{entry['name']} ({basis}): {', '.join(parts)}"


def relearning_line(entry: Entry) -> str:
    """How many steps bring the skill back, and how many teach it as new."""
    sides = []
    for side, start in (("lost", "where it was lost"), ("never", "where it was never there")):
        needed = entry[side]["steps_to_threshold"]
        low, high = (steps(end, entry) for end in needed["ci"])
        sides.append(f"{steps(needed['value'], entry)} steps {start} ({low} to {high})")
    line = f"{entry['task']} at {words.value('acc', entry['threshold'])} points after {' and '.join(sides)}"
    savings = entry["savings"]
    if savings["value"] is None:
        return f"{line}: savings unknown"
    low, high = savings["ci"]
    return f"{line}: savings {percent(savings['value'])} ({percent(low)} to {percent(high)})"


def steps(value: float | None, entry: Entry) -> str:
    """A number of steps; a curve that does not get there needs more than all of them."""
    return f"> {entry['last_step']}" if value is None else f"{value:.0f}"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %".replace("-", words.MINUS)
