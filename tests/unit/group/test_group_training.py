"""GRPO and RLOO with our own rollouts: they learn what the scorer likes, sample from the weights that they train, and resume."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.group import stage
from alignment.group.config import GRPOConfig, RLOOConfig

sys.path.append(str(Path(__file__).parents[2] / "e2e"))
from ppo_models import prompts_of, save_tiny_model

LIKED = 10
needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")


def count_liked(completions, rows):
    return torch.tensor([c.response_ids.count(LIKED) - 0.5 for c in completions])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("group")
    policy = save_tiny_model(folder / "policy", eos_bias=2.0)
    rows = [{"prompt": " ".join(f"w{token}" for token in ids)} for ids in prompts_of(24)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"model": Artifact("model", "m", policy), "prompts": Artifact("dataset", "p", folder / "prompts.jsonl")}


def config_for(kind, inputs, **options):
    references = {role: {"path": str(inputs[role].path)} for role in ("model", "prompts")} | {
        "reward": {"path": "none"}
    }
    small = {"rollout": {"engine": "hf", "batch_size": 16, "group_size": 4, "max_new_tokens": 8}, "minibatch_size": 8}
    config = {"grpo": GRPOConfig, "rloo": RLOOConfig}[kind]
    return config.model_validate(
        references | small | {"steps": 4, "learning_rate": 3e-3, "missing_eos": None} | options
    )


def metrics_of(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "rollout/score" in row]


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_the_policy_learns_what_the_scorer_likes(inputs, tmp_path, kind):
    config = config_for(kind, inputs, steps=30, beta=0.01, schedule="constant")
    summary = stage.run(config, inputs, Context.at(tmp_path), count_liked, gold=lambda prompt, answer: len(answer))
    rows = metrics_of(tmp_path)
    first, last = (sum(row["rollout/score"] for row in part) / 4 for part in (rows[:4], rows[-4:]))
    assert last > first + 0.5
    assert summary["steps"] == 30 and summary["engine"].startswith("transformers") and summary["gold"] > 0


@needs_vllm
def test_vllm_answers_from_the_weights_that_are_trained(inputs, tmp_path):
    """A policy that learned to end every answer at once has only short ones in the last rollouts; a stale engine would not."""

    def short(completions, rows):
        return torch.tensor([-float(len(c.response_ids)) for c in completions])

    rollout = {"engine": "vllm", "batch_size": 16, "group_size": 4, "max_new_tokens": 8}
    config = config_for("grpo", inputs, steps=25, learning_rate=1e-2, beta=0.0, rollout=rollout, schedule="constant")
    summary = stage.run(config, inputs, Context.at(tmp_path), short)
    assert summary["engine"].startswith("vLLM")
    assert summary["score"] > -1.6


def test_a_resumed_run_samples_and_learns_what_the_whole_one_does(inputs, tmp_path):
    whole = config_for("grpo", inputs, steps=4, checkpoint_every=1, schedule="constant", warmup=0)
    stage.run(whole, inputs, Context.at(tmp_path / "whole"), count_liked)

    class Killed(Exception):
        pass

    calls = []

    def dies(completions, rows):
        calls.append(1)
        if len(calls) > 2:
            raise Killed
        return count_liked(completions, rows)

    with pytest.raises(Killed):
        stage.run(whole, inputs, Context.at(tmp_path / "resumed"), dies)
    assert os.listdir(tmp_path / "resumed" / "scratch" / "checkpoints")
    stage.run(whole, inputs, Context.at(tmp_path / "resumed"), count_liked)
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(left[key], right[key]) for key in left)


def test_groups_have_to_fit(inputs):
    for wrong, message in [
        ({"minibatch_size": 10}, "does not divide rollout.batch_size"),
        ({"rollout": {"batch_size": 16, "group_size": 3}}, "group_size: 3 has to divide"),
        ({"batch_size": 4}, "has no effect here"),
    ]:
        with pytest.raises(ValidationError, match=message):
            config_for("grpo", inputs, **wrong)
