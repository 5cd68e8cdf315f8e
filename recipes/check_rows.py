"""Do the rows that a reference names hold what they are used for?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from alignment.core.config import DataRef
from alignment.data.stream import Reading

_CHECKED = 100_000


@dataclass(frozen=True)
class CheckedData:
    """format: what a file was found to be. rows: that were read; more: whether there are others."""

    where: str
    source: str
    rows: int
    format: str = ""
    more: bool = False


def check_rows(
    reference: DataRef, alternatives: Sequence[Sequence[str]], where: str, column: str | None = None
) -> CheckedData:
    """Rows hold the fields of one of the alternatives, and a number in `column`. Of a large file only the first are read: the stage
    that uses it checks them all. Raises DataError."""
    if reference.hub is not None:  # reading it needs the datasets library
        return checked(reference, 0, where)
    reading = Reading(reference, None, where, column)
    rows = reading.usable(alternatives)
    found = sum(1 for _ in islice(rows, _CHECKED))
    shape = "" if reference.lab else reading.format
    return CheckedData(where, _source(reference), found, shape, more=next(rows, None) is not None)


def checked(reference: DataRef, rows: int, where: str) -> CheckedData:
    return CheckedData(where, _source(reference), rows)


def _source(reference: DataRef) -> str:
    return str(f"hub:{reference.hub}" if reference.hub else f"lab:{reference.lab}" if reference.lab else reference.path)
