"""The order in which rows are met: endless, shuffled anew on every pass, and a function of the place alone."""

from __future__ import annotations

import torch

from alignment.core.context import derive_seed


class Endless:
    """`order[place]` is the row met at that place, counted from 0."""

    def __init__(self, rows: int, seed: int) -> None:
        self._rows, self._seed = rows, seed
        self._pass, self._shuffled = -1, []

    def __getitem__(self, place: int) -> int:
        number, within = divmod(place, self._rows)
        if number != self._pass:
            shuffle = torch.Generator().manual_seed(derive_seed(self._seed, "pass", str(number)))
            self._pass, self._shuffled = number, torch.randperm(self._rows, generator=shuffle).tolist()
        return self._shuffled[within]
