"""Do the rows that a reference names hold what they are used for?"""

from __future__ import annotations

from dataclasses import dataclass

from alignment.core.config import DataRef
from alignment.core.errors import DataError
from alignment.data.rows import load_rows


@dataclass(frozen=True)
class CheckedData:
    where: str
    source: str
    rows: int


def check_rows(reference: DataRef, alternatives: tuple[tuple[str, ...], ...], where: str) -> CheckedData:
    """Rows hold the fields of the first alternative that fits the first row. Raises DataError."""
    if reference.hub is not None:  # reading it needs the datasets library; the stage that uses it checks its rows
        return checked(reference, 0, where)
    first = load_rows(reference, where=where)[0]
    fitting = [fields for fields in alternatives if all(name in first for name in fields)]
    if not fitting:
        expected = " or ".join(" + ".join(fields) for fields in alternatives)
        raise DataError(
            where, f"{reference.path or reference.lab}: rows hold {', '.join(first)}", expected, "rename the fields"
        )
    return checked(reference, len(load_rows(reference, fields=fitting[0], where=where)), where)


def checked(reference: DataRef, rows: int, where: str) -> CheckedData:
    source = f"hub:{reference.hub}" if reference.hub else f"lab:{reference.lab}" if reference.lab else reference.path
    return CheckedData(where, str(source), rows)
