"""What a run says of itself after every step: numbers, a line now and then, a look at some answers, warnings in words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from alignment.core.context import Context
from alignment.core.runlog import append_rows, drop_rows_after
from alignment.data.rows import prompt_text
from alignment.ppo import maths
from alignment.ppo.config import PPOConfig
from alignment.ppo.pathology import Watch
from alignment.ppo.protocols import Scorer
from alignment.ppo.rollout import Rollout
from alignment.ppo.samples import SAMPLES, sample_rows, table

GoldScorer = Callable[[str, str], float]
_LOG_LINES = 20
_SAMPLES = 6


class Reporter:
    """Reports of one run. `done`: steps that lie behind a resumed one, whose warnings are not told again."""

    def __init__(
        self,
        config: PPOConfig,
        context: Context,
        tokenizer: Any,
        gold: GoldScorer | None,
        second_scorer: Scorer | None,
        done: int,
    ) -> None:
        self._config, self._context, self._tokenizer = config, context, tokenizer
        self._gold, self._second_scorer = gold, second_scorer
        context.log.forget_after(done)
        drop_rows_after(context.workdir / SAMPLES, done)
        history = [row for row in context.log.rows() if "rollout/score" in row]  # others tell of evaluations
        self._watch = Watch(expects_eos=config.missing_eos is not None, history=history)
        if self._watch.last is not None:
            context.progress.note(self._watch.last.seen)

    def __call__(
        self, step: int, rollout: Rollout, rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, float]
    ) -> dict[str, float]:
        """Tells of step number `step`, counted from 1. Returns the metrics with those of the judges that are not trained on."""
        texts = self._texts(rollout, rows)
        golds = None if self._gold is None else [self._gold(*text) for text in texts]
        metrics = dict(metrics)
        if golds is not None:
            metrics["rollout/gold"] = sum(golds) / len(golds)
        if self._second_scorer is not None:
            metrics["rollout/second_reward"] = float(self._second_scorer(rollout.completions, rows).mean())
        log = self._context.log
        log.metrics(step, metrics)
        for symptom in self._watch.see({"step": step} | metrics):
            log.info(f"WARNING, step {step}: {symptom}")
            self._context.progress.note(f"step {step}: {symptom.seen}")
        self._show(step, metrics)
        if self._config.samples_every and step % self._config.samples_every == 0:
            self._sample(step, rollout, texts, golds)
        return metrics

    def _show(self, step: int, metrics: Mapping[str, float]) -> None:
        steps = self._config.steps
        shown = {
            "reward": metrics["rollout/score"],
            "kl": metrics["rollout/kl"],
            "length": metrics["rollout/length"],
            "generate_tps": metrics["speed/generate"],
            "score_tps": metrics["speed/score"],
            "optimise_tps": metrics["speed/optimise"],
        }
        if "rollout/gold" in metrics:
            shown["gold"] = metrics["rollout/gold"]
        self._context.progress.update(step, steps, "ppo", **shown)
        if step == steps or step % max(1, steps // _LOG_LINES) == 0:
            line = ", ".join(f"{name} {value:.3g}" for name, value in shown.items())
            self._context.log.info(f"step {step}/{steps}: {line}")

    def _sample(
        self, step: int, rollout: Rollout, texts: Sequence[tuple[str, str]], golds: Sequence[float] | None
    ) -> None:
        kl = maths.k1(rollout.policy_logprobs, rollout.reference_logprobs)
        kls = torch.where(rollout.mask, kl, 0.0).sum(1).tolist()
        rows = sample_rows(step, rollout.completions, texts, rollout.scores.tolist(), kls, golds, _SAMPLES)
        append_rows(self._context.workdir / SAMPLES, rows)
        self._context.log.info(f"some answers of step {step}\n{table(rows)}")

    def _texts(self, rollout: Rollout, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
        """Prompt and answer as a person reads them."""
        ids = [completion.response_ids for completion in rollout.completions]
        answers = self._tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [(prompt_text(row["prompt"]), answer) for row, answer in zip(rows, answers, strict=True)]


class Clock:
    """Seconds of a step by phase."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = self._now()
        yield
        self._seconds[phase] = self._seconds.get(phase, 0.0) + self._now() - start

    def metrics(self, tokens: int, epochs: float) -> dict[str, float]:
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
