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
from alignment.data.chat import prompt_ids
from alignment.data.rows import Row, load_rows, prompt_text, write_rows
from alignment.generation.engine import Completion, Sampling
from alignment.generation.open import open_engine
from alignment.gold import gold_scorer
from alignment.models.load import load_tokenizer
from reward.config import PreferencesConfig

_BATCHES_A_CALL = 4
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


def answer_text(tokenizer: Any, completion: Completion, prompt: str | Sequence[Row]) -> str:
    """What a completion says. After plain text it is the rest of the whole, so that its first space is kept."""
    if not isinstance(prompt, str):
        return tokenizer.decode(completion.response_ids, skip_special_tokens=True)
    whole = tokenizer.decode(completion.prompt_ids + completion.response_ids, skip_special_tokens=True)
    return whole[len(tokenizer.decode(completion.prompt_ids, skip_special_tokens=True)) :]


def _answers(
    config: PreferencesConfig, rows: Sequence[Row], inputs: Mapping[str, Artifact], context: Context
) -> list[list[Answer]]:
    """`samples` answers of each prompt."""
    path = inputs["model"].path
    tokenizer, gold = load_tokenizer(path), gold_scorer(config.gold)
    requests = [(row, ids) for row in rows for ids in [prompt_ids(tokenizer, row["prompt"])] * config.samples]
    engine = open_engine(
        config.engine,
        path,
        max_prompt_tokens=max(len(ids) for _, ids in requests),
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
        precision=config.precision,
        seed=context.seed_for("engine"),
    )
    answers: list[Answer] = []
    size = config.batch_size * _BATCHES_A_CALL
    try:
        for start in range(0, len(requests), size):
            chunk = requests[start : start + size]
            sampling = Sampling(config.max_new_tokens, config.temperature, context.seed_for(f"sampling {start}"))
            for (row, _), completion in zip(chunk, engine.generate([ids for _, ids in chunk], sampling), strict=True):
                text = answer_text(tokenizer, completion, row["prompt"])
                answers.append(Answer(text, gold(prompt_text(row["prompt"]), text), completion.finished))
            context.progress.update(len(answers), len(requests), "sampling", gold=_mean([a.gold for a in answers]))
    finally:
        engine.close()
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
