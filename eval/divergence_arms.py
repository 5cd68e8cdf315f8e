"""The KL between an arm and its reference over all seeds, with intervals; from `divergence.parquet` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alignment.core.errors import SuiteError
from eval.bootstrap import resampled_means, seed_draws
from eval.divergence_rows import Key, Row, by_key, read_rows
from eval.statistics import Estimate, Interval, crossed

if TYPE_CHECKING:
    from eval.results import MeasuredModel

_REPLICATES = 4000


@dataclass(frozen=True)
class ArmDivergence:
    """KL of arm `stage` to `reference`, in nats.

    per_sequence: mean of the sequences' sums, with the crossed interval over seeds and inputs. per_token: sum of the sums / number of
    tokens, with a two-way bootstrap interval, which is too narrow at 3 seeds. n: inputs. tokens: of a sequence, on average.
    per_seed: (seed, nats a sequence). Intervals are not cut at 0.
    """

    reference: str
    stage: str
    inputs: str
    direction: str
    per_sequence: Estimate
    per_token: float
    per_token_ci: Interval
    n: int
    tokens: float
    per_seed: tuple[tuple[int, float], ...]

    def as_json(self) -> dict[str, Any]:
        """The entry of `results.json`. `ci` belongs to `per_sequence`."""
        return {
            "reference": self.reference,
            "stage": self.stage,
            "inputs": self.inputs,
            "direction": self.direction,
            "per_sequence": self.per_sequence.value,
            "ci": list(self.per_sequence.ci95),
            "ci_method": self.per_sequence.method,
            "per_token": self.per_token,
            "per_token_ci": list(self.per_token_ci),
            "per_token_ci_method": "bootstrap",
            "n": self.n,
            "n_seeds": len(self.per_seed),
            "tokens": self.tokens,
            "per_seed": [list(pair) for pair in self.per_seed],
        }


def arm_divergences(models: Sequence[MeasuredModel]) -> list[ArmDivergence]:
    """Every divergence that was measured, one per arm, reference, inputs and direction; empty where a recipe asks for none.

    Raises SuiteError where the seeds of an arm were not measured on the same inputs.
    """
    arms: dict[str, dict[int, dict[Key, list[Row]]]] = {}
    for model in models:
        if rows := read_rows(model.evaluation):
            arms.setdefault(model.stage, {})[model.seed] = by_key(rows)
    made = []
    for stage, seeds in arms.items():
        for key in dict.fromkeys(key for found in seeds.values() for key in found):
            made.append(_over_seeds(stage, key, {seed: seeds[seed].get(key, []) for seed in sorted(seeds)}))
    return made


def _over_seeds(stage: str, key: Key, seeds: Mapping[int, Sequence[Row]]) -> ArmDivergence:
    documents = [row["doc_hash"] for row in next(iter(seeds.values()))]
    for seed, rows in seeds.items():
        if [row["doc_hash"] for row in rows] != documents:
            where = f"{stage} (seed {seed}), divergence from {key[0]} on {key[1]} inputs"
            what = "was not measured on the inputs of the other seeds"
            raise SuiteError(where, what, "the same inputs for every seed", "evaluate the model again")
    kl, tokens = (
        np.array([[row[name] for row in rows] for rows in seeds.values()], float) for name in ("kl", "tokens")
    )
    return ArmDivergence(
        reference=key[0],
        stage=stage,
        inputs=key[1],
        direction=key[2],
        per_sequence=crossed(kl),
        per_token=float(kl.sum() / tokens.sum()),
        per_token_ci=ratio_interval(kl, tokens),
        n=kl.shape[1],
        tokens=float(tokens.mean()),
        per_seed=tuple(zip(seeds, map(float, kl.mean(1)), strict=True)),
    )


def ratio_interval(numerators: np.ndarray, denominators: np.ndarray, seed: int = 0) -> Interval:
    """95 % interval of sum(numerators) / sum(denominators), both `[S, n]`, by a two-way bootstrap over seeds and items."""
    rng = np.random.default_rng(seed)
    weights = seed_draws(len(numerators), _REPLICATES, rng)
    means = resampled_means(np.stack([numerators, denominators], 1), weights, rng)
    low, high = np.quantile(means[:, 0] / means[:, 1], [0.025, 0.975])
    return float(low), float(high)
