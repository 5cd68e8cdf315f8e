"""Prompts with their token ids, in an order that follows from the step alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alignment.data.chat import prompt_ids
from alignment.data.order import Endless


class Prompts:
    """Rows with their token ids."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], tokenizer: Any, seed: int) -> None:
        self._rows, self._order = rows, Endless(len(rows), seed)
        self._ids = [prompt_ids(tokenizer, row["prompt"]) for row in rows]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(map(len, self._ids))

    def batch(self, step: int, size: int) -> tuple[list[list[int]], list[Mapping[str, Any]]]:
        """Token ids and rows of step number `step`, counted from 0."""
        chosen = [self._order[place] for place in range(step * size, (step + 1) * size)]
        return [self._ids[index] for index in chosen], [self._rows[index] for index in chosen]
