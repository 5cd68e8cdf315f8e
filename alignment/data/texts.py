"""What rows say, as plain text, and runs of its words. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from itertools import takewhile
from typing import Any

Row = dict[str, Any]
FIELDS = ("prompt", "completion", "messages", "chosen", "rejected", "text")


def text_of(row: Row) -> str:
    """Everything that a row says, its turns in lines of their own."""
    names = [
        name for name in FIELDS if name in row and not (name == "prompt" and "messages" in row)
    ]  # the first turn, told twice
    return "\n".join(text for name in names for text in said(row[name]))


def wording(row: Row) -> str:
    """What a row says; of one that has none of our fields, all its texts."""
    return text_of(row) or "\n".join(value for value in row.values() if isinstance(value, str))


def beginning(row: Row) -> str:
    """What must not sit on both sides of a split: the prompt, a conversation up to its first answer, a text; else the whole row."""
    value = row.get("prompt", row.get("text", row))
    if value is row and isinstance(messages := row.get("messages"), list):
        value = (
            list(takewhile(lambda turn: not (isinstance(turn, dict) and turn.get("role") == "assistant"), messages))
            or row
        )
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


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
