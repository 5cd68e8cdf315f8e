"""Do the rows that a reference names hold what they are used for?"""

from __future__ import annotations

from dataclasses import dataclass, replace

from alignment.core.config import DataRef
from alignment.core.errors import DataError
from alignment.data.rows import load_rows, read_rows


@dataclass(frozen=True)
class CheckedData:
    where: str
    source: str
    rows: int
    format: str = ""  # what the file was found to be


def check_rows(reference: DataRef, alternatives: tuple[tuple[str, ...], ...], where: str) -> CheckedData:
    """Rows hold the fields of the first alternative that fits the first row. Raises DataError."""
    if reference.hub is not None:  # reading it needs the datasets library; the stage that uses it checks its rows
        return checked(reference, 0, where)
    read = read_rows(reference, where=where)
    first = read.rows[0][1] if read.rows else load_rows(reference, where=where)[0]
    fitting = [fields for fields in alternatives if all(name in first for name in fields)]
    if not fitting:
        expected = " or ".join(" + ".join(fields) for fields in alternatives)
        raise DataError(
            where,
            f"{reference.path or reference.lab}: rows hold {', '.join(first)}",
            expected,
            "name the columns that hold them with `columns:`, or use other data",
        )
    rows = load_rows(reference, fields=fitting[0], where=where)
    return replace(checked(reference, len(rows), where), format="" if reference.lab else read.format)


def checked(reference: DataRef, rows: int, where: str) -> CheckedData:
    source = f"hub:{reference.hub}" if reference.hub else f"lab:{reference.lab}" if reference.lab else reference.path
    return CheckedData(where, str(source), rows)
