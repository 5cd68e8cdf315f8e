"""Rows as lists: what a reference names, read whole; and written. No torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.core.artifact import Artifact
from alignment.core.config import DataRef
from alignment.data.stream import Reading

Row = dict[str, Any]


def load_rows(
    ref: DataRef, artifact: Artifact | None = None, fields: Sequence[str] = (), where: str = "data"
) -> list[Row]:
    """All rows that `ref` names, in the suite's own form, each checked to hold every one of `fields` as non-empty text or messages.

    artifact: the data set when `ref.stage` is set; for a hub reference its digest is the resolved commit.
    where: what error messages call this reference, e.g. `stages.sft.data`.
    Raises DataError for a missing, empty or malformed source; bad rows are left out, and told, under `on_error: skip`.
    """
    return list(Reading(ref, artifact, where).usable([fields]))


@dataclass(frozen=True)
class Read:
    """rows: with their lines (`file:line` where there are several files), in the suite's own form. bad: what is wrong with the others.
    format, about: what they were found to be, as a name and in words."""

    source: str
    format: str
    about: str
    rows: list[tuple[int | str, Row]]
    bad: list[str]


def read_rows(ref: DataRef, artifact: Artifact | None = None, where: str = "data") -> Read:
    """What `ref` names, read and converted, nothing left out unsaid. Raises DataError for what cannot be read as a whole."""
    reading = Reading(ref, artifact, where)
    rows = [(reading.place(number), row) for number, row in reading]
    return Read(reading.source, reading.format, reading.about, rows, reading.bad)


def prompt_text(prompt: str | Sequence[Row]) -> str:
    """What a prompt says: the string itself, or the content of the last user message."""
    if isinstance(prompt, str):
        return prompt
    return next(message["content"] for message in reversed(prompt) if message["role"] == "user")


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """JSONL, one row a line; what JSON has no form for, such as a date, as text."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows))
