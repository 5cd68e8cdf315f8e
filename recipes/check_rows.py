"""Do the rows that a reference names hold what they are used for?"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from alignment.core.config import DataRef
from alignment.data.stream import Reading
from alignment.data.texts import Row, text_of

_CHECKED = 100_000
_LONGEST = 20


@dataclass(frozen=True)
class CheckedData:
    """format: what a file was found to be. rows: that were read; more: whether there are others. longest: sequences that these rows make,
    as texts: among them is the one of most tokens, by all odds. labels: of rows for a classifier."""

    where: str
    source: str
    rows: int
    format: str = ""
    more: bool = False
    longest: tuple[str, ...] = ()
    labels: frozenset[str] = frozenset()


def check_rows(
    reference: DataRef, alternatives: Sequence[Sequence[str]], where: str, column: str | None = None
) -> CheckedData:
    """Rows hold the fields of one of the alternatives, and a number in `column`. Of a large file only the first are read: the stage
    that uses it checks them all. Raises DataError."""
    if reference.hub is not None:  # reading it needs the datasets library
        return checked(reference, 0, where)
    reading = Reading(reference, None, where, column)
    rows, found = reading.usable(alternatives), 0
    labels: set[str] = set()

    def sequences() -> Iterator[str]:
        nonlocal found
        for row in islice(rows, _CHECKED):
            found += 1
            if ("text", "label") in alternatives:
                labels.add(str(row["label"]))
            yield from _sequences(row)

    longest = tuple(heapq.nlargest(_LONGEST, sequences(), key=len))
    shape = "" if reference.lab else reading.format
    more = next(rows, None) is not None
    return CheckedData(where, _source(reference), found, shape, more, longest, frozenset(labels))


def checked(reference: DataRef, rows: int, where: str) -> CheckedData:
    return CheckedData(where, _source(reference), rows)


def _source(reference: DataRef) -> str:
    return str(f"hub:{reference.hub}" if reference.hub else f"lab:{reference.lab}" if reference.lab else reference.path)


def _sequences(row: Row) -> Iterator[str]:
    """What a model reads of a row at once: a pair makes two."""
    if "chosen" not in row:
        yield text_of(row)
    for side in ("chosen", "rejected"):
        if side in row:
            yield text_of({"prompt": row.get("prompt", ""), "completion": row[side]})
