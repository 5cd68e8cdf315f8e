"""The stage as a whole: it learns, it resumes, and it stops when its engine samples from other weights."""

import importlib.util
import json
import multiprocessing
import os
import signal

import pytest
import torch
from ppo_models import prompts_of, save_tiny_model
from safetensors.torch import load_file

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.core.errors import SuiteError
from alignment.generation.hf_engine import HfEngine
from alignment.models.load import load_causal_lm
from alignment.models.reward_model import new_reward_model
from alignment.ppo import stage
from alignment.ppo.config import PPOConfig

LIKED = 10
needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
EACH_ENGINE = pytest.mark.parametrize("engine", ["hf", pytest.param("vllm", marks=needs_vllm)])


def count_liked(completions, rows):
    """The whole reward: how often the answer says w10, in the units of a normalised score."""
    return torch.tensor([c.response_ids.count(LIKED) - 0.5 for c in completions])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ppo")
    policy = save_tiny_model(folder / "policy", eos_bias=2.0)
    new_reward_model(policy).save_pretrained(folder / "reward")
    rows = [{"prompt": " ".join(f"w{token}" for token in ids)} for ids in prompts_of(48)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kinds = {"model": ("model", policy), "reward": ("reward_model", folder / "reward")}
    artifacts = {role: Artifact(kind, role, path) for role, (kind, path) in kinds.items()}
    return artifacts | {"prompts": Artifact("dataset", "prompts", folder / "prompts.jsonl")}


def config_for(inputs, **options):
    references = {role: {"path": str(inputs[role].path)} for role in ("model", "reward", "prompts")}
    small = {"rollout": {"engine": "hf", "batch_size": 16, "max_new_tokens": 8}, "minibatch_size": 8, "steps": 5}
    rates = {"learning_rate": 3e-3, "critic": {"learning_rate": 3e-3}, "checkpoint_every": 2}
    return PPOConfig.model_validate(references | small | rates | options)


def metrics_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def assert_same_weights(left, right):
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_ppo_learns_what_the_scorer_likes_and_leaves_a_plain_model(inputs, tmp_path, precision, capsys):
    config = config_for(inputs, steps=40, precision=precision, kl={"coefficient": 0.01}, missing_eos=None)
    summary = stage.run(config, inputs, Context.at(tmp_path), count_liked, gold=lambda prompt, answer: len(answer))
    rows = metrics_of(tmp_path)
    first, last = (sum(row["rollout/score"] for row in part) / 5 for part in (rows[:5], rows[-5:]))
    assert first < 0.5 and last > first + 1.0
    assert rows[0]["rollout/kl"] == pytest.approx(0, abs=1e-5 if precision == "fp32" else 0.05)
    assert rows[-1]["rollout/kl"] > 0.5
    assert [row["step"] for row in rows] == list(range(1, 41))
    assert summary["rollout_tokens"] == round(sum(row["rollout/length"] * 16 for row in rows))
    assert summary["train_tokens"] == 2 * summary["rollout_tokens"]
    assert summary["kl"] == rows[-1]["rollout/kl"] and summary["gold"] == rows[-1]["rollout/gold"]
    assert "rollouts by transformers" in capsys.readouterr().out
    saved = load_causal_lm(tmp_path)
    assert {parameter.dtype for parameter in saved.parameters()} == {torch.float32}
    assert saved.config._attn_implementation != "packed_causal"
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == 2


def test_the_penalty_for_a_missing_eos_teaches_to_end(inputs, tmp_path):
    summary = stage.run(
        config_for(inputs, steps=20),
        inputs,
        Context.at(tmp_path),
        lambda completions, rows: torch.zeros(len(completions)),
    )
    rows = metrics_of(tmp_path)
    assert rows[0]["rollout/without_eos"] > 0.4 and rows[-1]["rollout/without_eos"] < 0.15
    assert summary["score"] == -rows[-1]["rollout/without_eos"]


class Killed(BaseException):
    pass


@EACH_ENGINE
def test_a_run_that_was_cut_off_and_resumed_equals_one_that_was_not(inputs, tmp_path, engine):
    rollout = {"engine": engine, "batch_size": 16, "max_new_tokens": 8}
    config = config_for(inputs, rollout=rollout, kl={"coefficient": 0.1, "target": 0.01, "horizon": 100})
    summary = stage.run(config, inputs, Context.at(tmp_path / "whole"), count_liked)
    calls = []

    def killed_in_the_fourth_step(completions, rows):
        calls.append(1)
        if len(calls) == 4:
            raise Killed
        return count_liked(completions, rows)

    context = Context.at(tmp_path / "cut")
    with pytest.raises(Killed):
        stage.run(config, inputs, context, killed_in_the_fourth_step)
    assert len(metrics_of(context.workdir)) == 3
    torch.manual_seed(999)  # a new process starts with other random states
    resumed = stage.run(config, inputs, context, count_liked)
    assert_same_weights(weights_of(context.workdir), weights_of(tmp_path / "whole"))
    assert {k: v for k, v in resumed.items() if k != "seconds"} == {k: v for k, v in summary.items() if k != "seconds"}
    measured = [key for key in metrics_of(tmp_path / "whole")[0] if not key.startswith(("time", "speed"))]
    for row, expected in zip(metrics_of(context.workdir), metrics_of(tmp_path / "whole"), strict=True):
        assert {key: row[key] for key in measured} == {key: expected[key] for key in measured}
    betas = [row["kl/coefficient"] for row in metrics_of(context.workdir)]
    assert len(set(betas)) == 5  # the adaptive coefficient moved, so forgetting it would show


def _run_and_die(inputs, folder):
    torch.set_num_threads(1)
    seen = []

    def scorer(completions, rows):
        seen.append(1)
        if len(seen) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return count_liked(completions, rows)

    stage.run(config_for(inputs), inputs, Context.at(folder), scorer)


def test_a_process_killed_by_the_system_resumes_from_its_checkpoint(inputs, tmp_path):
    stage.run(config_for(inputs), inputs, Context.at(tmp_path / "whole"), count_liked)
    process = multiprocessing.get_context("fork").Process(target=_run_and_die, args=(inputs, tmp_path / "killed"))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    steps = []
    context = Context.at(tmp_path / "killed")
    stage.run(config_for(inputs), inputs, context, lambda c, rows: steps.append(1) or count_liked(c, rows))
    assert len(steps) == 3  # two of five steps lay in the checkpoint
    assert_same_weights(weights_of(context.workdir), weights_of(tmp_path / "whole"))


def test_an_engine_that_keeps_its_old_weights_stops_the_run(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(HfEngine, "load_weights", lambda self, weights: None)
    with pytest.raises(SuiteError, match="weights were not synchronised"):
        stage.run(config_for(inputs), inputs, Context.at(tmp_path), count_liked)


def test_another_seed_gives_another_run(inputs, tmp_path):
    config = config_for(inputs, steps=1)
    for seed in (0, 1):
        stage.run(config, inputs, Context.at(tmp_path / str(seed), seed=seed), count_liked)
    left, right = weights_of(tmp_path / "0"), weights_of(tmp_path / "1")
    assert any(not torch.equal(left[name], right[name]) for name in left)


def test_a_critic_from_the_policy_needs_nothing_of_the_reward_model(inputs, tmp_path):
    config = config_for(inputs, steps=2, critic={"init": "policy", "learning_rate": 3e-3})
    summary = stage.run(config, inputs, Context.at(tmp_path), count_liked)
    assert summary["steps"] == 2


def test_the_real_stories_model_whose_bos_is_its_eos(tmp_path):
    """Real weights: answers never end by themselves, and prompts begin with what would be an EOS."""
    if "ALIGN_ASSETS" not in os.environ:
        pytest.skip("ALIGN_ASSETS is not set: it names the folder of models and data that these tests read")
    from pathlib import Path

    model = Path(os.environ["ALIGN_ASSETS"]) / "models" / "stories260K"
    new_reward_model(model, "mean").save_pretrained(tmp_path / "reward")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Once upon a time"}\n{"prompt": "Tom and Mia like to"}\n')
    inputs = {
        "model": Artifact("model", "m", model),
        "reward": Artifact("reward_model", "r", tmp_path / "reward"),
        "prompts": Artifact("dataset", "p", tmp_path / "prompts.jsonl"),
    }
    config = config_for(inputs, steps=2, missing_eos=None, learning_rate=1e-4)
    stage.run(
        config,
        inputs,
        Context.at(tmp_path / "run"),
        lambda c, rows: torch.tensor([float(len(set(x.response_ids))) for x in c]),
    )
    rows = metrics_of(tmp_path / "run")
    assert [row["rollout/without_eos"] for row in rows] == [1.0, 1.0]
    assert [row["rollout/length"] for row in rows] == [8.0, 8.0]
    assert all(row["rollout/sampler_gap"] < 1e-4 for row in rows)
