"""One run of our stage on a case: `python -m benchmarks.ppo.ours lab_fp32 FOLDER SEED`. The stage is called as the runner calls it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.core.provenance import versions
from alignment.ppo import stage
from alignment.ppo.config import PPOConfig
from benchmarks.ppo.cases import KL_COEFFICIENT, LEARNING_RATE, Case, case_named
from benchmarks.ppo.outcome import PHASES, Outcome, peak_mib, use_threads
from reward.scorer import RewardScorer


def run(case: Case, folder: Path, seed: int = 0) -> Outcome:
    """The stage in `folder`, and what its metrics say."""
    threads = use_threads()
    config, inputs = config_of(case), inputs_of(case)
    scorer = RewardScorer(inputs["reward"].path, case.precision)
    stage.run(config, inputs, Context.at(folder, seed=seed, threads=threads), scorer)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return Outcome(
        steps=[_numbers(row) for row in rows[case.warmup :]],
        updates=case.workload.epochs * case.workload.minibatches,
        changed=_changed(inputs["model"].path, folder),
        peak_mib=peak_mib(),
        threads=threads,
        versions=versions(),
    )


def config_of(case: Case) -> PPOConfig:
    """Everything that is work is as on the other side; what trl has no name for keeps its default."""
    workload = case.workload
    return PPOConfig.model_validate(
        {
            "model": {"path": str(workload.policy)},
            "reward": {"path": str(workload.reward)},
            "prompts": {"path": str(workload.prompts)},
            "rollout": {
                "engine": "vllm",
                "batch_size": workload.batch_size,
                "max_new_tokens": workload.max_new_tokens,
                "temperature": 1.0,
            },
            "critic": {"learning_rate": LEARNING_RATE},
            "kl": {"coefficient": KL_COEFFICIENT},
            "missing_eos": None,
            "steps": case.warmup + case.steps,
            "epochs": workload.epochs,
            "minibatch_size": workload.batch_size // workload.minibatches,
            "learning_rate": LEARNING_RATE,
            "precision": case.precision,
            "checkpoint_every": None,
        }
    )


def inputs_of(case: Case) -> dict[str, Artifact]:
    workload = case.workload
    return {
        "model": Artifact("model", "policy", workload.policy),
        "reward": Artifact("reward_model", "reward", workload.reward),
        "prompts": Artifact("dataset", "prompts", workload.prompts),
    }


def _numbers(row: dict[str, float]) -> dict[str, float]:
    seconds = {phase: row[f"time/{phase}"] for phase in (*PHASES, "step")}
    return seconds | {"length": row["rollout/length"]}


def _changed(before: Path, after: Path) -> bool:
    old, new = load_file(before / "model.safetensors"), load_file(after / "model.safetensors")
    return any(not torch.equal(old[name].float(), new[name].float()) for name in new)


if __name__ == "__main__":
    run(case_named(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])).print()
