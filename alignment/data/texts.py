"""What rows say, as plain text, and runs of its words. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

Row = dict[str, Any]
FIELDS = ("prompt", "completion", "messages", "chosen", "rejected", "text")


def text_of(row: Row) -> str:
    """Everything that a row says, its turns in lines of their own."""
    return "\n".join(text for name in FIELDS if name in row for text in said(row[name]))


def whole(row: Row) -> str:
    """What a row says; of one that has none of our fields, all that it holds."""
    return text_of(row) if any(name in row for name in FIELDS) else json.dumps(row, sort_keys=True, default=str)


def said(value: Any) -> list[str]:
    """The texts of a field: itself, or those of its messages."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        return []
    return [str(message.get("content", "")) for message in value if isinstance(message, dict)]


def rewritten(row: Row, change: Callable[[str], str]) -> Row:
    """The row with every text that it says changed."""
    return row | {name: _changed(row[name], change) for name in FIELDS if name in row}


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if not isinstance(value, list):
        return value
    return [
        message | {"content": change(message["content"])}
        if isinstance(message, dict) and isinstance(message.get("content"), str)
        else message
        for message in value
    ]


def grams(text: str, size: int) -> Iterable[str]:
    """Runs of so many words, case and punctuation aside; a shorter text is one run."""
    words = re.findall(r"\w+", text.lower())
    if 0 < len(words) < size:
        yield " ".join(words)
    for start in range(len(words) - size + 1):
        yield " ".join(words[start : start + size])
