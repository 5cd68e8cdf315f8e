"""How long a run still takes: from finished cells of the same stage, and weights of the kinds where there is none yet."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from alignment.core.store import Store
from recipes.plan import Cell
from recipes.stages import KINDS

if TYPE_CHECKING:
    from recipes.runner import Running


class Estimate:
    """expected_seconds: what the recipe says that a whole first run takes; scales the kinds' weights until cells have finished."""

    def __init__(self, store: Store, cells: Sequence[Cell], jobs: int, expected_seconds: float | None) -> None:
        self.jobs = jobs
        self.by_stage: dict[str, list[float]] = {}
        for _, manifest in store.manifests():
            self.by_stage.setdefault(manifest["stage"], []).append(manifest["provenance"]["seconds"])
        weights = sum(KINDS[cell.config.kind].weight for cell in cells) / jobs
        self.per_weight = expected_seconds / weights if expected_seconds and weights else None

    def learn(self, cell: Cell, seconds: float) -> None:
        self.by_stage.setdefault(cell.stage, []).append(seconds)

    def cell_seconds(self, cell: Cell) -> float | None:
        if cell.stage in self.by_stage:
            return median(self.by_stage[cell.stage])
        return self.per_weight * KINDS[cell.config.kind].weight if self.per_weight else None

    def seconds_left(self, running: Sequence[Running], waiting: Sequence[Cell]) -> float | None:
        """The longer of two bounds: all work divided by the jobs, and the longest chain of cells that need each other."""
        seconds: dict[str, float] = {}
        now = time.time()
        for one in running:
            expected = self.cell_seconds(one.cell)
            if expected is None:
                return None
            seconds[one.cell.digest] = max(expected - (now - one.started), 2.0)
        for cell in waiting:
            expected = self.cell_seconds(cell)
            if expected is None:
                return None
            seconds[cell.digest] = expected
        chain: dict[str, float] = {}

        def end(cell: Cell) -> float:
            if cell.digest not in seconds:
                return 0.0
            if cell.digest not in chain:
                chain[cell.digest] = seconds[cell.digest] + max((end(needed) for needed in cell.needs()), default=0.0)
            return chain[cell.digest]

        longest = max((end(cell) for cell in [*(one.cell for one in running), *waiting]), default=0.0)
        return max(longest, sum(seconds.values()) / self.jobs)
