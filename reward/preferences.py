"""Preference pairs: answers sampled from a model, labelled by a gold scorer with noise."""

from __future__ import annotations

import math
import random
import zlib
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
from reward.config import PreferencesConfig

_EXPONENT = 700  # math.exp overflows soon after; what is left of the probability is 1e-304


@dataclass(frozen=True)
class Answer:
    """text: what it says, without special tokens. finished: it ended by itself."""

    text: str
    gold: float
    finished: bool


def run(config: PreferencesConfig, inputs: Mapping[str, Artifact], context: Context) -> dict[str, Any]:
    rows = load_rows(config.prompts, inputs.get("prompts"), ("prompt",), "prompts")
    if config.pairs is not None:
        rows = rows[: math.ceil(config.pairs * 2 / config.samples)]
    answers = _answers(config, rows, inputs, context)
    pairs, dropped = label_pairs(rows, answers, config.slope, context.seed_for("labels"))
    pairs = pairs[: config.pairs]
    held_out = [is_held_out(pair["prompt"], config.validation_share) for pair in pairs]
    train = [pair for pair, out in zip(pairs, held_out, strict=True) if not out]
    validation = [pair for pair, out in zip(pairs, held_out, strict=True) if out]
    if not train or not validation:
        raise DataError("prompts", f"{len(pairs)} pairs do not fill both splits", "more prompts", "raise prompts.rows")
    write_rows(train, context.workdir / "train.jsonl")
    write_rows(validation, context.workdir / "validation.jsonl")
    return _summary(train, validation, answers, dropped)


def label_pairs(
    rows: Sequence[Row], answers: Sequence[Sequence[Answer]], slope: float, seed: int
) -> tuple[list[Row], dict[str, int]]:
    """Pairs (answers 0 and 1, 2 and 3, ... of each prompt) with labels drawn from the Bradley-Terry model, and how many
    were dropped because both answers say the same, or one says nothing."""
    rng = random.Random(seed)
    pairs, dropped = [], {"identical": 0, "empty": 0}
    for row, given in zip(rows, answers, strict=True):
        for first, second in zip(given[::2], given[1::2], strict=True):
            better = rng.random() < first_better(first.gold, second.gold, slope)
            if first.text == second.text:
                dropped["identical"] += 1
            elif not first.text.strip() or not second.text.strip():
                dropped["empty"] += 1
            else:
                pairs.append(_pair(row, *((first, second) if better else (second, first))))
    return pairs, dropped


def first_better(first_gold: float, second_gold: float, slope: float) -> float:
    """P(the first answer is preferred) under Bradley and Terry (1952), with `slope` times gold as the strength."""
    return 1 / (1 + math.exp(min(-slope * (first_gold - second_gold), _EXPONENT)))


def is_held_out(prompt: str | Sequence[Row], share: float) -> bool:
    """By a hash of what the prompt says: all pairs of a prompt land on the same side."""
    return zlib.crc32(f"preferences|{prompt_text(prompt)}".encode()) % 10_000 < share * 10_000


def _answers(
    config: PreferencesConfig, rows: Sequence[Row], inputs: Mapping[str, Artifact], context: Context
) -> list[list[Answer]]:
    """`samples` answers of each prompt."""
    tokenizer, gold = load_tokenizer(inputs["model"].path), gold_scorer(config.gold)
    answers: list[Answer] = []
    for chunk in sampled(config, rows, config.samples, tokenizer, inputs, context):
        for row, completion in chunk:
            text = answer_text(tokenizer, completion, row["prompt"])
            answers.append(Answer(text, gold(prompt_text(row["prompt"]), text), completion.finished))
    return [answers[start : start + config.samples] for start in range(0, len(answers), config.samples)]


def _pair(row: Row, chosen: Answer, rejected: Answer) -> Row:
    return {
        "prompt": row["prompt"],
        "chosen": chosen.text,
        "rejected": rejected.text,
        "chosen_gold": chosen.gold,
        "rejected_gold": rejected.gold,
        "chosen_finished": chosen.finished,
        "rejected_finished": rejected.finished,
    }


def _summary(
    train: Sequence[Row], validation: Sequence[Row], answers: Sequence[Sequence[Answer]], dropped: Mapping[str, int]
) -> dict[str, Any]:
    every = [answer for given in answers for answer in given]
    clear = [pair for pair in [*train, *validation] if pair["chosen_gold"] != pair["rejected_gold"]]
    return {
        "train_pairs": len(train),
        "validation_pairs": len(validation),
        "dropped_identical": dropped["identical"],
        "dropped_empty": dropped["empty"],
        "mean_gold": _mean([answer.gold for answer in every]),
        "finished_share": _mean([answer.finished for answer in every]),
        "tied_share": 1 - len(clear) / (len(train) + len(validation)),
        "label_gold_agreement": _mean([pair["chosen_gold"] > pair["rejected_gold"] for pair in clear]),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))
