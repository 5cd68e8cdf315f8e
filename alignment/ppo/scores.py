"""What happens to a reward model's scores before they become rewards: normalising and clipping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from alignment.ppo.config import ScoreConfig


@dataclass
class ScoreStatistics:
    """Count, mean and sum of squared deviations of all scores so far (Chan et al. 1979, parallel updating)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, scores: Tensor) -> None:
        """scores [B]. Those that are not finite are left out: one would spoil the statistics of all that follow."""
        scores = scores[scores.isfinite()]
        if not len(scores):
            return
        many, mean = len(scores), float(scores.double().mean())
        squares = float(((scores.double() - mean) ** 2).sum())
        total, difference = self.count + many, mean - self.mean
        self.squares += squares + difference**2 * self.count * many / total
        self.mean += difference * many / total
        self.count = total

    @property
    def deviation(self) -> float:
        return (self.squares / self.count) ** 0.5 if self.count else 1.0

    def state(self) -> dict[str, float]:
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def restore(self, state: Mapping[str, float]) -> None:
        self.count, self.mean, self.squares = int(state["count"]), state["mean"], state["squares"]


def shaped(scores: Tensor, config: ScoreConfig, statistics: ScoreStatistics) -> Tensor:
    """Scores [B] after the recipe's normalising and clipping. `statistics` takes them in first."""
    statistics.add(scores)
    if config.normalise == "batch":
        statistics = ScoreStatistics()
        statistics.add(scores)
    if config.normalise is not None:
        scores = (scores - statistics.mean) / (statistics.deviation + 1e-8)
    return scores if config.clip is None else torch.clamp(scores, -config.clip, config.clip)
