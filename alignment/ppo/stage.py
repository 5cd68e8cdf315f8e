"""The stage `ppo`: Schulman et al. 2017 on a language model, with the details of Huang et al. 2024 ("N+").

What to read, in this order: `run` below is the algorithm; `rollout.judge` turns sampled answers into advantages;
`update.optimise` is the optimisation; `maths` holds every formula; `packing` is why padding costs nothing.
Left out, on purpose: generation that overlaps training, several optimisation processes, a pre-training loss (PPO-ptx).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import torch

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.core.errors import SuiteError
from alignment.data.rows import load_rows, prompt_text
from alignment.generation.engine import Completion, Engine, Sampling
from alignment.generation.open import open_engine
from alignment.models.load import load_tokenizer, read_config, save_model
from alignment.ppo.checkpoint import load_checkpoint, save_checkpoint
from alignment.ppo.config import PPOConfig
from alignment.ppo.learner import Learner, new_learner
from alignment.ppo.maths import adapted_coefficient, token_logprobs
from alignment.ppo.packing import response_logits
from alignment.ppo.prompts import Prompts
from alignment.ppo.protocols import Scorer
from alignment.ppo.rollout import judge, rollout_metrics
from alignment.ppo.update import optimise

_SYNC_TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}
_PROBES = 4
_LOG_LINES = 20


def run(
    config: PPOConfig,
    inputs: Mapping[str, Artifact],
    context: Context,
    scorer: Scorer,
    gold: Callable[[str, str], float] | None = None,
) -> dict[str, Any]:
    """Trains the policy and leaves it in `context.workdir`. inputs: `model`, `reward`, and `prompts` where they are a file's.

    gold(prompt text, answer) is only logged. Summary: train_tokens = response tokens times epochs, rollout_tokens, steps,
    seconds, engine, and score, KL (nats a sequence) and gold of the last step's samples.
    Raises SuiteError if the engine's weights ever differ from the policy's.
    """
    started = time.monotonic()
    tokenizer: Any = load_tokenizer(inputs["model"].path)
    rows = load_rows(config.prompts, inputs.get("prompts"), ("prompt",), "prompts")
    prompts = Prompts(rows, tokenizer, context.seed_for("prompts"))
    learner = new_learner(config, inputs, context)
    totals = load_checkpoint(context.scratch, learner) or {"steps": 0, "rollout_tokens": 0}
    context.log.forget_after(int(totals["steps"]))
    last: dict[str, float] = {}

    with closing(_open(config, inputs["model"], prompts, context)) as engine:
        context.log.info(f"rollouts by {engine.name}")
        engine.load_weights(learner.policy.named_parameters())
        for step in range(int(totals["steps"]), config.steps):
            clock = _Clock()
            learner.policy_optimizer.set_progress(step / config.steps)
            learner.critic_optimizer.set_progress(step / config.steps)

            with clock("generate"):
                prompt_batch, row_batch = prompts.batch(step, config.rollout.batch_size)
                completions = engine.generate(prompt_batch, _sampling(config, context, step))
            with clock("score"):
                rollout = judge(completions, row_batch, learner, scorer, config)
            with clock("optimise"):
                updates = optimise(rollout, learner, config, context.seed_for(f"shuffle {step}"))
            with clock("sync"):
                engine.load_weights(learner.policy.named_parameters())
                gap = _require_sync(engine, learner, completions, config)

            last = rollout_metrics(rollout) | updates | clock.metrics(rollout.tokens, config.epochs)
            last |= {"kl/coefficient": learner.kl_coefficient, "sync/logprob_gap": gap}
            if gold is not None:
                last["rollout/gold"] = _mean_gold(gold, completions, row_batch, tokenizer)
            learner.kl_coefficient = _next_coefficient(config, learner.kl_coefficient, last["rollout/kl"])
            totals = {"steps": step + 1, "rollout_tokens": totals["rollout_tokens"] + rollout.tokens}
            _report(context, step + 1, config.steps, last)
            if config.checkpoint_every and (step + 1) % config.checkpoint_every == 0 and step + 1 < config.steps:
                save_checkpoint(context.scratch, learner, totals)
        name = engine.name

    learner.policy_optimizer.use_masters()
    # In the dtype it came in, whatever it was trained in: precision says how to compute, not what to leave behind.
    save_model(learner.policy.to(read_config(inputs["model"].path).dtype), tokenizer, context.workdir)
    return _summary(config, totals, last, name, time.monotonic() - started)


def _open(config: PPOConfig, model: Artifact, prompts: Prompts, context: Context) -> Engine:
    return open_engine(
        config.rollout.engine,
        model.path,
        max_prompt_tokens=prompts.longest,
        max_new_tokens=config.rollout.max_new_tokens,
        batch_size=config.rollout.batch_size,
        precision=config.precision,
        seed=context.seed_for("engine"),
    )


def _sampling(config: PPOConfig, context: Context, step: int) -> Sampling:
    return Sampling(config.rollout.max_new_tokens, config.rollout.temperature, context.seed_for(f"rollout {step}"))


@torch.no_grad()
def _require_sync(engine: Engine, learner: Learner, completions: Sequence[Completion], config: PPOConfig) -> float:
    """Mean |difference| of log-probabilities between engine and trainer on the batch's longest sequences, at temperature 1.

    Raises SuiteError above the tolerance: the engine then samples from other weights than those that are trained.
    """
    sequences = sorted((c.prompt_ids + c.response_ids[:-1] for c in completions), key=len)[-_PROBES:]
    by_engine = engine.logprobs(sequences)
    probes = [Completion(ids[:1], ids[1:], numbers, True) for ids, numbers in zip(sequences, by_engine, strict=True)]
    difference, tokens = 0.0, 0
    for pack in learner.packs(probes, range(len(probes)), max(map(len, sequences))):
        by_trainer = token_logprobs(response_logits(learner.policy, pack), pack.targets, 1.0)
        expected = torch.tensor(
            [number for row in pack.rows for number in probes[row].logprobs], device=by_trainer.device
        )
        difference += float((by_trainer - expected).abs().sum())
        tokens += len(expected)
    gap, tolerance = difference / tokens, config.sync_tolerance or _SYNC_TOLERANCE[config.precision]
    if not gap <= tolerance:
        raise SuiteError(
            "ppo",
            f"weights were not synchronised: after an update {engine.name} and the trainer differ by {gap:.2g} in mean "
            "log-probability",
            f"at most {tolerance:g} in {config.precision}",
            "set rollout.engine: hf; if the difference is rounding of a larger model, raise sync_tolerance",
        )
    return gap


def _next_coefficient(config: PPOConfig, coefficient: float, sequence_kl: float) -> float:
    if config.kl.target is None:
        return coefficient
    return adapted_coefficient(coefficient, sequence_kl, config.kl.target, config.kl.horizon, config.rollout.batch_size)


def _mean_gold(
    gold: Callable[[str, str], float],
    completions: Sequence[Completion],
    rows: Sequence[Mapping[str, Any]],
    tokenizer: Any,
) -> float:
    answers = tokenizer.batch_decode([completion.response_ids for completion in completions], skip_special_tokens=True)
    return sum(gold(prompt_text(row["prompt"]), answer) for row, answer in zip(rows, answers, strict=True)) / len(rows)


def _report(context: Context, step: int, steps: int, metrics: dict[str, float]) -> None:
    context.log.metrics(step, metrics)
    shown = {
        "reward": metrics["rollout/score"],
        "kl": metrics["rollout/kl"],
        "length": metrics["rollout/length"],
        "tokens_per_second": metrics["speed/tokens_per_second"],
    }
    if "rollout/gold" in metrics:
        shown["gold"] = metrics["rollout/gold"]
    context.progress.update(step, steps, "ppo", **shown)
    if step == steps or step % max(1, steps // _LOG_LINES) == 0:
        context.log.info(f"step {step}/{steps}: " + ", ".join(f"{name} {value:.3g}" for name, value in shown.items()))


def _summary(
    config: PPOConfig, totals: Mapping[str, float], last: Mapping[str, float], engine: str, seconds: float
) -> dict[str, Any]:
    summary = {
        "steps": config.steps,
        "rollout_tokens": int(totals["rollout_tokens"]),
        "train_tokens": int(totals["rollout_tokens"]) * config.epochs,
        "seconds": seconds,
        "engine": engine,
        "score": last["rollout/score"],
        "kl": last["rollout/kl"],
    }
    return summary | ({"gold": last["rollout/gold"]} if "rollout/gold" in last else {})


class _Clock:
    """Seconds of a step by phase."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = self._now()
        yield
        self._seconds[phase] = self._now() - start

    def metrics(self, tokens: int, epochs: int) -> dict[str, float]:
        """Seconds and response tokens per second, by phase and for the step; the optimiser meets each token `epochs` times."""
        step = sum(self._seconds.values())
        metrics = {f"time/{phase}": seconds for phase, seconds in self._seconds.items()} | {"time/step": step}
        metrics["speed/generate"] = tokens / self._seconds["generate"]
        metrics["speed/score"] = tokens / self._seconds["score"]
        metrics["speed/optimise"] = tokens * epochs / self._seconds["optimise"]
        return metrics | {"speed/tokens_per_second": tokens / step}

    @staticmethod
    def _now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()
