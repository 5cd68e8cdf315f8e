"""The order in which prompts are met: endless, shuffled anew on every pass, and a function of the step alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from alignment.core.context import derive_seed
from alignment.data.chat import prompt_ids


class Prompts:
    """Rows with their token ids."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], tokenizer: Any, seed: int) -> None:
        self._rows, self._seed = rows, seed
        self._ids = [prompt_ids(tokenizer, row["prompt"]) for row in rows]
        self._pass, self._order = -1, []

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(map(len, self._ids))

    def batch(self, step: int, size: int) -> tuple[list[list[int]], list[Mapping[str, Any]]]:
        """Token ids and rows of step number `step`, counted from 0."""
        chosen = [self._index(place) for place in range(step * size, (step + 1) * size)]
        return [self._ids[index] for index in chosen], [self._rows[index] for index in chosen]

    def _index(self, place: int) -> int:
        number, within = divmod(place, len(self._rows))
        if number != self._pass:
            shuffle = torch.Generator().manual_seed(derive_seed(self._seed, "pass", str(number)))
            self._pass, self._order = number, torch.randperm(len(self._rows), generator=shuffle).tolist()
        return self._order[within]
