"""Answers sampled from a model, some to each prompt: the raw material of preference pairs and of best-of-n."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.data.chat import prompt_ids
from alignment.data.rows import Row
from alignment.generation.engine import Completion, Sampling
from alignment.generation.open import open_engine
from reward.config import AnswersConfig

_BATCHES_A_CALL = 4


def sampled(
    config: AnswersConfig,
    rows: Sequence[Row],
    samples: int,
    tokenizer: Any,
    inputs: Mapping[str, Artifact],
    context: Context,
) -> Iterator[list[tuple[Row, Completion]]]:
    """`samples` answers to the prompt of each row, in order, some prompts at a time."""
    requests = [(row, ids) for row in rows for ids in [prompt_ids(tokenizer, row["prompt"])] * samples]
    engine = open_engine(
        config.engine,
        inputs["model"].path,
        max_prompt_tokens=max(len(ids) for _, ids in requests),
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
        precision=config.precision,
        seed=context.seed_for("engine"),
    )
    size = config.batch_size * _BATCHES_A_CALL
    with closing(engine):
        for start in range(0, len(requests), size):
            chunk = requests[start : start + size]
            sampling = Sampling(config.max_new_tokens, config.temperature, context.seed_for(f"sampling {start}"))
            completions = engine.generate([ids for _, ids in chunk], sampling)
            yield [(row, completion) for (row, _), completion in zip(chunk, completions, strict=True)]
            context.progress.update(start + len(chunk), len(requests), "sampling")
