"""What a check of data says about some of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alignment.data.texts import Row

Place = int | str  # the line of a row; of several files with the file's name
Numbered = tuple[Place, Row]
Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """kind: what it is about. lines: of the rows concerned. examples: a few of them in words. advice: what to do."""

    kind: str
    severity: Severity
    lines: tuple[Place, ...]
    advice: str
    examples: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return len(self.lines)
