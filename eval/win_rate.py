"""The stage `win_rate`: two models answer the same held-out prompts, and a judge says whose answer is better.

Reads inputs["reference"], inputs["model"] and what prompts and judge come from; writes `pairs.parquet` (one row a prompt) and
`win_rate.json`. Answers are sampled in fp32 by transformers, each from a seed of its own and the two models' independently of
one another: a win rate compares two draws. A killed cell samples the same answers again and asks a judge at a URL only what it
has not answered yet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from alignment.core.artifact import Artifact, digest_of
from alignment.core.context import Context
from alignment.data.chat import prompt_ids
from alignment.data.rows import load_rows
from alignment.generation.answers import answer_text
from alignment.generation.engine import Completion, Sampling
from alignment.generation.open import open_engine
from alignment.models.load import load_tokenizer
from eval.chat_judge import ChatJudge, conversation
from eval.judges import Answer, Judgement, Pair, PairJudge, Prompt, Report, Scorer, reward_judge, rule_judge
from eval.win_config import Judge, WinRateConfig
from eval.win_rate_files import ABOUT, PAIRS, SCHEMA

_BATCHES_A_CALL = 4


def run(
    config: WinRateConfig,
    inputs: Mapping[str, Artifact],
    context: Context,
    open_scorer: Callable[[], Scorer] | None = None,
) -> dict[str, Any]:
    """Sample, judge, count. open_scorer: loads the reward model, for a judge that is one.

    Raises DataError for prompts that cannot be used, ModelError for a model, SuiteError where a judge's server stays away.
    """
    rows = load_rows(config.prompts, inputs.get("prompts"), ("prompt",), "prompts")
    prompts = [row["prompt"] for row in rows]
    judge = open_judge(config.judge, open_scorer, context.scratch)
    answers = {}
    for role in ("reference", "model"):
        report = partial(context.progress.update, phase=f"answers of the {role}")
        answers[role] = sample(inputs[role].path, prompts, config, context.seed_for(f"answers of the {role}"), report)
    pairs = [Pair(*each) for each in zip(prompts, answers["reference"], answers["model"], strict=True)]
    judgements = judge(pairs, partial(context.progress.update, phase="judging"))
    table = pa.Table.from_pylist([_row(*each) for each in zip(pairs, judgements, strict=True)], schema=SCHEMA)
    pq.write_table(table, context.workdir / PAIRS, compression="zstd")
    about = {"judge": config.judge.name, "temperature": config.temperature, "max_new_tokens": config.max_new_tokens}
    (context.workdir / ABOUT).write_text(json.dumps(about, indent=1) + "\n")
    return _summary(judgements)


def open_judge(judge: Judge, open_scorer: Callable[[], Scorer] | None, scratch: Path) -> PairJudge:
    """Ready to judge: a server answers, a key is set."""
    if judge.url is not None:
        return ChatJudge(judge, scratch / "replies.jsonl")
    if judge.rule is not None:
        return rule_judge(judge.rule)
    assert open_scorer is not None, "the runner handed in no reward model"
    return reward_judge(open_scorer())


def sample(model: Path, prompts: Sequence[Prompt], config: WinRateConfig, seed: int, report: Report) -> list[Answer]:
    """One answer per prompt, in order; each depends on its own place and seed alone, not on its batch."""
    tokenizer = load_tokenizer(model)
    ids = [prompt_ids(tokenizer, prompt) for prompt in prompts]  # pyright: ignore[reportArgumentType]
    engine = open_engine(
        "hf",
        model,
        max_prompt_tokens=max(map(len, ids)),
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
        precision="fp32",
    )
    completions: list[Completion] = []
    size = config.batch_size * _BATCHES_A_CALL
    with closing(engine):
        for start in range(0, len(ids), size):
            sampling = Sampling(config.max_new_tokens, config.temperature, seed, first=start)
            completions += engine.generate(ids[start : start + size], sampling)
            report(len(completions), len(ids))
    return [Answer(answer_text(tokenizer, one, prompt), one) for one, prompt in zip(completions, prompts, strict=True)]


def _row(pair: Pair, judgement: Judgement) -> dict[str, Any]:
    scores, verdicts, replies = judgement.scores, judgement.verdicts, judgement.replies
    return {
        "prompt_hash": digest_of(pair.prompt),
        "prompt": conversation(pair.prompt),
        "reference_answer": pair.reference.text,
        "new_answer": pair.new.text,
        "reference_finished": pair.reference.completion.finished,
        "new_finished": pair.new.completion.finished,
        "reference_score": scores[0] if scores else None,
        "new_score": scores[1] if scores else None,
        "verdict_reference_first": verdicts[0] if verdicts else None,
        "verdict_new_first": verdicts[1] if verdicts else None,
        "reply_reference_first": replies[0] if replies else None,
        "reply_new_first": replies[1] if replies else None,
        "win": judgement.win,
    }


def _summary(judgements: Sequence[Judgement]) -> dict[str, Any]:
    wins = [judgement.win for judgement in judgements if judgement.win is not None]
    return {
        "win_rate": sum(wins) / len(wins),
        "prompts": len(judgements),
        "ties": sum(win == 0.5 for win in wins),
        "no_verdict": len(judgements) - len(wins),
    }
