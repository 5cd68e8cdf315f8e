"""One run of the peer on a case: `PYTHONPATH=... python -m benchmarks.ppo.peer lab_fp32 FOLDER SEED`.

trl 1.12.0 is the last release with PPOTrainer. It runs unmodified; the phases are timed from outside, by wrapping three names of
its module:

    generate   batch_generation()
    score      from there to the first forward pass with gradients: log-probabilities, values, rewards, GAE
    optimise   from there to PPOTrainer.log()

Trap: with gradient_accumulation_steps > 1, or a per-device batch below the minibatch, accelerate skips optimiser steps without
a word. So both are set to rule that out, and the steps are counted.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
import trl.experimental.ppo.ppo_trainer as module  # type: ignore[import-not-found]
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer  # type: ignore[import-not-found]

from alignment.data.chat import prompt_ids
from benchmarks.ppo.cases import KL_COEFFICIENT, LEARNING_RATE, Case, case_named
from benchmarks.ppo.outcome import Outcome, peak_mib, use_threads

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def run(case: Case, folder: Path, seed: int) -> Outcome:
    """PPOTrainer in `folder`, timed from outside."""
    threads = use_threads()
    trainer = _trainer(case, folder, seed)
    watch = _Watch(trainer.processing_class.eos_token_id if case.workload.stops else None)
    updates = [0]
    trainer.optimizer.optimizer.register_step_post_hook(lambda *_: updates.__setitem__(0, updates[0] + 1))
    before = [parameter.detach().clone() for parameter in trainer.policy_model.parameters()]
    trainer.train()
    after = trainer.policy_model.parameters()
    return Outcome(
        steps=watch.steps[case.warmup :],
        updates=updates[0] / len(watch.steps),
        changed=any(not torch.equal(old, new) for old, new in zip(before, after, strict=True)),
        peak_mib=peak_mib(),
        threads=threads,
        versions={"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__},
    )


def _trainer(case: Case, folder: Path, seed: int) -> Any:
    workload, dtype = case.workload, _DTYPES[case.precision]
    tokenizer = AutoTokenizer.from_pretrained(workload.policy, padding_side="left")
    policy, reference = (AutoModelForCausalLM.from_pretrained(workload.policy, dtype=dtype) for _ in range(2))
    value, reward = (
        AutoModelForSequenceClassification.from_pretrained(workload.reward, num_labels=1, dtype=dtype) for _ in range(2)
    )
    prompts = [json.loads(line)["prompt"] for line in workload.prompts.read_text().splitlines()]
    config = PPOConfig(
        output_dir=str(folder),
        seed=seed,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        learning_rate=LEARNING_RATE,
        per_device_train_batch_size=workload.batch_size,
        gradient_accumulation_steps=1,
        num_mini_batches=workload.minibatches,
        total_episodes=workload.batch_size * (case.warmup + case.steps),
        num_ppo_epochs=workload.epochs,
        num_sample_generations=0,
        local_rollout_forward_batch_size=workload.batch_size,
        response_length=workload.max_new_tokens,
        stop_token="eos" if workload.stops else None,
        temperature=1.0,
        kl_coef=KL_COEFFICIENT,
        missing_eos_penalty=None,
    )
    return PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": [prompt_ids(tokenizer, prompt) for prompt in prompts]}),
    )


class _Watch:
    """Wraps the module's functions; `steps` collects the seconds of each step by phase, and the mean answer length."""

    def __init__(self, eos: int | None) -> None:
        self.steps: list[dict[str, float]] = []
        self._eos = eos
        self._marks: dict[str, float] = {}
        self._generation, self._forward, self._log = module.batch_generation, module.forward, PPOTrainer.log
        watch = self
        module.batch_generation, module.forward = self._timed_generation, self._timed_forward
        PPOTrainer.log = lambda trainer, *args, **options: watch._timed_log(trainer, *args, **options)

    def _timed_generation(self, model: Any, queries: torch.Tensor, *args: Any, **options: Any) -> Any:
        self._marks = {"start": time.perf_counter()}
        output = self._generation(model, queries, *args, **options)
        self._marks["generated"] = time.perf_counter()
        self._marks["length"] = _mean_length(output[0][:, queries.shape[1] :], self._eos)
        return output

    def _timed_forward(self, *args: Any, **options: Any) -> Any:
        if torch.is_grad_enabled():
            self._marks.setdefault("scored", time.perf_counter())
        return self._forward(*args, **options)

    def _timed_log(self, trainer: Any, *args: Any, **options: Any) -> Any:
        end, marks = time.perf_counter(), self._marks
        if "scored" in marks:
            phases = {
                "generate": marks["generated"] - marks["start"],
                "score": marks["scored"] - marks["generated"],
                "optimise": end - marks["scored"],
            }
            self.steps.append(phases | {"sync": 0.0, "step": end - marks["start"], "length": marks["length"]})
            self._marks = {}
        return self._log(trainer, *args, **options)


def _mean_length(responses: torch.Tensor, eos: int | None) -> float:
    """Tokens of an answer up to its first EOS, which counts, or the limit."""
    if eos is None:
        return float(responses.shape[1])
    ended = responses == eos
    lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, responses.shape[1])
    return float(lengths.float().mean())


if __name__ == "__main__":
    run(case_named(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])).print()
