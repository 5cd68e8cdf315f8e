"""Rows dropped by declared rules, each with its reason; and splits in which a prompt sits on one side only. No torch."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from alignment.data.inspection import Numbered, Row, overlap, text_of

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Rules:
    """Which rows go. longest: in tokens or words, as `count` counts. against: texts that must not come up."""

    duplicates: bool = True
    equal_answers: bool = True
    longest: int | None = None
    against: Sequence[str] = ()


@dataclass(frozen=True)
class Dropped:
    line: int
    reason: str


def clean(rows: Sequence[Numbered], rules: Rules, count: Callable[[str], int]) -> tuple[list[Row], list[Dropped]]:
    """The rows that stay, in order, and why each of the others went."""
    shared = overlap(rows, rules.against) if rules.against else None
    overlapping = set(shared.lines) if shared else set()
    first: dict[str, int] = {}
    kept: list[Row] = []
    dropped: list[Dropped] = []
    for number, row in rows:
        reason = _reason(number, row, rules, count, overlapping, first)
        if reason is None:
            kept.append(row)
            first.setdefault(text_of(row), number)
        else:
            dropped.append(Dropped(number, reason))
    return kept, dropped


def _reason(
    number: int, row: Row, rules: Rules, count: Callable[[str], int], overlapping: set[int], first: dict[str, int]
) -> str | None:
    text = text_of(row)
    if rules.duplicates and text in first:
        return f"the same as line {first[text]}"
    if rules.equal_answers and "chosen" in row and row["chosen"] == row.get("rejected"):
        return "chosen equals rejected"
    if rules.longest is not None and (length := count(text)) > rules.longest:
        return f"{length} long, more than {rules.longest}"
    return "overlaps with what it must not" if number in overlapping else None


def split(rows: Iterable[Row], shares: tuple[float, float, float]) -> dict[str, list[Row]]:
    """train, validation and test by a hash of the prompt (of the whole row, where it has none): the same prompt always lands on the
    same side, whatever the order, the number or the file of the rows. shares: they sum to 1."""
    parts: dict[str, list[Row]] = {name: [] for name in SPLITS}
    for row in rows:
        place = zlib.crc32(f"split|{_key(row)}".encode()) / 2**32
        name = "train" if place < shares[0] else "validation" if place < shares[0] + shares[1] else "test"
        parts[name].append(row)
    return parts


def _key(row: Row) -> str:
    return text_of({"prompt": row["prompt"]}) if "prompt" in row else text_of(row)
