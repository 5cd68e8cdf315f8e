"""How good the learned rewards of a recipe are: what their training measured on held-out pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eval.training_log import is_number


@dataclass(frozen=True)
class RewardModel:
    """Held-out figures of one reward model; None where its training did not measure them.

    accuracy: share of the labels that it orders right, over `pairs` pairs, with Wilson's 95 % interval. gold_accuracy: the
    same against the exact score. ceiling: how often the labels themselves agree with the exact score. nll: of the
    Bradley-Terry model, in nats. brier, ece: of its probabilities. subsets: accuracy by kind of pair.
    """

    stage: str
    seed: int
    pairs: int | None
    accuracy: float | None
    accuracy_ci: tuple[float, float] | None
    gold_accuracy: float | None
    ceiling: float | None
    nll: float | None
    brier: float | None
    ece: float | None
    subsets: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        """The entry of `results.json`."""
        return asdict(self)


def reward_models(summaries: Sequence[Mapping[str, Any]]) -> list[RewardModel]:
    """summaries: of the reward cells' training, each with `stage` and `seed`."""
    return [_reward_model(summary) for summary in summaries]


def _reward_model(summary: Mapping[str, Any]) -> RewardModel:
    def number(key: str) -> float | None:
        return float(summary[key]) if is_number(summary.get(key)) else None

    pairs, accuracy = summary.get("validation_pairs"), number("validation_accuracy")
    subsets = summary.get("subsets") or {}
    return RewardModel(
        stage=summary["stage"],
        seed=summary["seed"],
        pairs=pairs,
        accuracy=accuracy,
        accuracy_ci=_wilson(round(accuracy * pairs), pairs) if accuracy is not None and pairs else None,
        gold_accuracy=number("gold_accuracy"),
        ceiling=number("label_gold_agreement"),
        nll=number("validation_loss"),
        brier=number("validation_brier"),
        ece=number("validation_ece"),
        subsets={name: float(value) for name, value in subsets.items() if is_number(value)},
    )


def _wilson(right: int, pairs: int) -> tuple[float, float]:
    from scipy import stats

    interval = stats.binomtest(right, pairs).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
