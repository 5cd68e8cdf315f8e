"""GRPO and RLOO through trl's trainers, with our own engines for the rollouts.

trl's own vLLM mode samples from stale or wrongly packed weights on a CPU, silently; our engines are sent the weights before
every rollout, and seeds belong to requests, so a resumed run samples what it would have sampled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

import datasets
import torch
from trl.trainer.grpo_config import GRPOConfig as TrlGRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_config import RLOOConfig as TrlRLOOConfig
from trl.trainer.rloo_trainer import RLOOTrainer

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.data.chat import prompt_ids
from alignment.data.rows import load_rows, prompt_text
from alignment.generation.engine import Completion, Engine, Sampling
from alignment.generation.open import open_engine
from alignment.group.config import GroupConfig, GRPOConfig, RLOOConfig
from alignment.memory.announce import announce_memory
from alignment.models.load import load_tokenizer, parameter_counts
from alignment.models.merged import merged_weights
from alignment.models.training import find_checkpoint, report_callback, trainer_arguments
from alignment.tuning import carry_out, load_for_tuning

Scorer = Callable[[Sequence[Completion], Sequence[Mapping[str, Any]]], torch.Tensor]
Gold = Callable[[str, str], float]


def run(
    config: GRPOConfig | RLOOConfig,
    inputs: Mapping[str, Artifact],
    context: Context,
    scorer: Scorer,
    gold: Gold | None = None,
) -> dict[str, Any]:
    """Trains the policy and leaves it in `context.workdir`. scorer: scores [B] of answers, 0 for an average one, 1 a deviation above."""
    started = time.time()
    tokenizer: Any = load_tokenizer(inputs["model"].path)
    model = load_for_tuning(config, inputs["model"].path, context, dropout=False)
    rows = load_rows(config.prompts, inputs.get("prompts"), ("prompt",), "prompts")
    table = datasets.Dataset.from_list([{"prompt": row["prompt"]} for row in rows])
    judge = _Judge(config, tokenizer, scorer, gold)
    checkpoint = find_checkpoint(context, config.updates)
    report = report_callback(context, checkpoint, config.updates)
    trainer = _trainer(
        config,
        context,
        model=model,
        reward_funcs=judge,
        train_dataset=table,
        processing_class=tokenizer,
        callbacks=[report],
    )
    longest = max(len(prompt_ids(tokenizer, row["prompt"])) for row in rows)
    memory = announce_memory(config, inputs["model"].path, longest, context)
    with closing(_open(config, inputs["model"], longest, context)) as engine:
        context.log.info(f"rollouts by {engine.name}, through this suite's engines rather than trl's")
        trainer.own = _Rollouts(engine, config, context, tokenizer, report)
        tuned = carry_out(trainer, config, context, tokenizer, checkpoint, per_step=config.updates)
    best = tuned.finish()
    return {
        "steps": tuned.steps // config.updates,
        "train_tokens": round(report.tokens),
        "engine": engine.name,
        **judge.last,
        "seconds": round(time.time() - started, 2),
        **memory,
        **parameter_counts(trainer.model),
        **best,
    }


class _Judge:
    """trl's reward function: scores by the reward model; gold beside it, in the metrics. last: means of the last batch."""

    __name__ = "reward"

    def __init__(self, config: GroupConfig, tokenizer: Any, scorer: Scorer, gold: Gold | None) -> None:
        self._config, self._tokenizer, self._scorer, self._gold = config, tokenizer, scorer, gold
        self.last: dict[str, float] = {}

    def __call__(
        self, prompts: Sequence[Any], completion_ids: Sequence[list[int]], log_metric: Any, **_: Any
    ) -> list[float]:
        end = self._tokenizer.eos_token_id
        completions = [
            Completion(prompt_ids(self._tokenizer, prompt), ids, [], bool(ids) and ids[-1] == end)
            for prompt, ids in zip(prompts, completion_ids, strict=True)
        ]
        scores = self._scorer(completions, [{}] * len(completions)).tolist()
        self.last = {"score": sum(scores) / len(scores)}
        if self._gold is not None:
            texts = self._tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
            golds = [self._gold(prompt_text(prompt), text) for prompt, text in zip(prompts, texts, strict=True)]
            self.last["gold"] = sum(golds) / len(golds)
        for name, value in self.last.items():
            log_metric(f"rollout/{name}", value)
        cut = self._config.missing_eos
        return [
            score if cut is None or completion.finished else cut
            for score, completion in zip(scores, completions, strict=True)
        ]


class _Rollouts:
    """Answers from our engine, which gets the policy's weights first."""

    def __init__(self, engine: Engine, config: GroupConfig, context: Context, tokenizer: Any, report: Any) -> None:
        self.engine, self._config, self._context = engine, config, context
        self._tokenizer, self._report = tokenizer, report

    def __call__(self, trainer: Any, prompts: Sequence[list[int]]) -> list[list[int]]:
        self.engine.wake()
        self.engine.load_weights(merged_weights(trainer.accelerator.unwrap_model(trainer.model)))
        seed = self._context.seed_for(f"rollout {trainer.state.global_step}")
        sampling = Sampling(self._config.rollout.max_new_tokens, self._config.rollout.temperature, seed)
        completions = self.engine.generate(prompts, sampling)
        self.engine.sleep()
        self._report.tokens += self._config.epochs * sum(len(c.response_ids) for c in completions)
        return [completion.response_ids for completion in completions]


class _OwnRollouts:
    """What our trainers change of trl's: who tokenises prompts, and who answers them."""

    own: _Rollouts

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [prompt_ids(self.processing_class, prompt) for prompt in prompts], None, {}  # type: ignore[attr-defined]


class _GRPO(_OwnRollouts, GRPOTrainer):
    def _generate_single_turn(self, prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        return self.own(self, prompt_ids), None


class _RLOO(_OwnRollouts, RLOOTrainer):
    def _generate_single_turn(self, prompt_ids: list[list[int]], *_: Any, **__: Any) -> list[list[int]]:
        return self.own(self, prompt_ids)


def _trainer(config: GRPOConfig | RLOOConfig, context: Context, **parts: Any) -> Any:
    """A step of trl's is an optimiser step: `config.updates` of them are one rollout batch, and checkpoints fall between batches."""
    arguments = trainer_arguments(config, context) | {
        "per_device_train_batch_size": config.minibatch_size,
        "steps_per_generation": config.rollout.batch_size // config.minibatch_size,
        "num_iterations": config.epochs,
        "num_generations": config.rollout.group_size,
        "max_completion_length": config.rollout.max_new_tokens,
        "temperature": config.rollout.temperature,
        "max_steps": config.steps * config.updates,
        "save_steps": config.checkpoint_every * config.updates,
        "logging_steps": config.updates,
        "beta": config.beta,
        "epsilon": config.clip,
        "pad_to_multiple_of": None,
    }
    if isinstance(config, GRPOConfig):
        return _GRPO(args=TrlGRPOConfig(**arguments, scale_rewards=config.scale, loss_type=config.loss), **parts)
    return _RLOO(args=TrlRLOOConfig(**arguments, normalize_advantages=config.normalise_advantages), **parts)


def _open(config: GroupConfig, model: Artifact, longest: int, context: Context) -> Engine:
    return open_engine(
        config.rollout.engine,
        model.path,
        max_prompt_tokens=longest,
        max_new_tokens=config.rollout.max_new_tokens,
        batch_size=config.rollout.batch_size,
        precision=config.precision,
        seed=context.seed_for("engine"),
    )
