"""Best of n: each prompt with the one of n sampled answers that a judge scores highest, and what n buys."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.core.errors import DataError
from alignment.data.rows import Row, load_rows, prompt_text, write_rows
from alignment.generation.answers import answer_text
from alignment.gold import gold_scorer
from alignment.models.load import load_tokenizer
from reward.answers import sampled
from reward.config import BestOfNConfig
from reward.scorer import RewardScorer


@dataclass(frozen=True)
class Judged:
    """One answer. score: what the best is chosen by. gold: None without a gold scorer."""

    text: str
    finished: bool
    score: float
    gold: float | None


def run(config: BestOfNConfig, inputs: Mapping[str, Artifact], context: Context) -> dict[str, Any]:
    rows = load_rows(config.prompts, inputs.get("prompts"), ("prompt",), "prompts")
    pools = _pools(config, rows, inputs, context)
    chosen = [(row, best_of(pool)) for row, pool in zip(rows, pools, strict=True)]
    above = -math.inf if config.above is None else config.above
    kept = [(row, best) for row, best in chosen if best.score > above and best.text.strip()]
    if not kept:
        raise DataError(
            "prompts", "no row is left: every best answer is empty, or not above `above`", "some", "lower it"
        )
    write_rows([_row(row, best) for row, best in kept], context.workdir / "train.jsonl")
    return {"rows": len(kept), "dropped": len(chosen) - len(kept)} | what_n_buys(pools)


def best_of(pool: Sequence[Judged]) -> Judged:
    """The highest score; of equal ones the first."""
    return max(pool, key=lambda answer: answer.score)


def expected_best(pool: Sequence[Judged], n: int, values: Sequence[float]) -> float:
    """Mean of `values` (one for each answer of the pool) at the best-scored of n answers drawn from the pool without replacement:
    an unbiased estimate of best-of-n from one pool of N, by order statistics. The answer of rank r (from 0, worst first) is the
    best of n with probability C(r, n - 1) / C(N, n). Equal scores: the later of them in the order of the pool ranks lower."""
    order = sorted(range(len(pool)), key=lambda index: (pool[index].score, -index))
    weights = [math.comb(rank, n - 1) / math.comb(len(pool), n) for rank in range(len(pool))]
    return math.fsum(weight * values[index] for weight, index in zip(weights, order, strict=True))


def what_n_buys(pools: Sequence[Sequence[Judged]]) -> dict[str, float]:
    """For n = 1, 2, 4, ... up to the pool's size: mean score, mean gold, and log n - (n - 1) / n, an upper bound on the KL in
    nats between best-of-n and the model (Beirami et al. 2024)."""
    size, numbers = len(pools[0]), {}
    for n in sorted({*(2**k for k in range(size.bit_length())), size}):
        if n > size:
            continue
        numbers[f"best_of_{n}/score"] = _mean([expected_best(pool, n, [a.score for a in pool]) for pool in pools])
        golds = [[a.gold for a in pool if a.gold is not None] for pool in pools]
        if all(len(values) == size for values in golds):
            numbers[f"best_of_{n}/gold"] = _mean(
                [expected_best(pool, n, values) for pool, values in zip(pools, golds, strict=True)]
            )
        numbers[f"best_of_{n}/kl_bound"] = math.log(n) - (n - 1) / n
    return numbers


def _pools(
    config: BestOfNConfig, rows: Sequence[Row], inputs: Mapping[str, Artifact], context: Context
) -> list[list[Judged]]:
    """The answers of each prompt with their scores."""
    tokenizer: Any = load_tokenizer(inputs["model"].path)
    gold = gold_scorer(config.gold) if config.gold else None
    scorer = RewardScorer(inputs["reward"].path, config.precision) if config.reward else None
    judged: list[Judged] = []
    for chunk in sampled(config, rows, config.samples, tokenizer, inputs, context):
        texts = [answer_text(tokenizer, completion, row["prompt"]) for row, completion in chunk]
        golds = (
            [gold(prompt_text(row["prompt"]), text) for (row, _), text in zip(chunk, texts, strict=True)]
            if gold
            else None
        )
        scores = scorer([completion for _, completion in chunk]).tolist() if scorer else golds
        assert scores is not None
        for index, (_, completion) in enumerate(chunk):
            judged.append(Judged(texts[index], completion.finished, scores[index], golds[index] if golds else None))
    return [judged[start : start + config.samples] for start in range(0, len(judged), config.samples)]


def _row(row: Row, best: Judged) -> Row:
    chat = not isinstance(row["prompt"], str)
    completion: Any = [{"role": "assistant", "content": best.text}] if chat else best.text
    made = {"prompt": row["prompt"], "completion": completion, "finished": best.finished, "score": best.score}
    return made | ({"gold": best.gold} if best.gold is not None else {})


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
