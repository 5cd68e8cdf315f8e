"""The stage in each arrangement of its models: it learns, it resumes to the bit with every option on, it survives NaN."""

import importlib.util
import json
import math

import pytest
import torch
from ppo_models import prompts_of
from test_ppo_stage import Killed, assert_same_weights, count_liked, inputs, metrics_of, weights_of  # noqa: F401

from alignment.core.context import Context
from alignment.core.errors import SuiteError
from alignment.models.load import load_causal_lm
from alignment.ppo import stage
from alignment.ppo.config import PPOConfig

LORA = {"peft": {"r": 8, "alpha": 16}}
SHARED = {"arrangement": "shared_base"} | LORA
ARRANGEMENTS = {
    "separate": {},
    "shared_base": SHARED,
    "shared_base, 8 bits": SHARED | {"quantization": {"bits": 8}},
    "shared_base, 4 bits": SHARED | {"quantization": {"bits": 4}},
    "value_head": {"arrangement": "value_head"},
    "value_head, LoRA": {"arrangement": "value_head"} | LORA,
}
EACH = pytest.mark.parametrize("arrangement", ARRANGEMENTS)
needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")


def config_in(inputs, arrangement, engine="hf", **options):  # noqa: F811
    references = {role: {"path": str(inputs[role].path)} for role in ("model", "reward", "prompts")}
    rate = 2e-2 if "peft" in ARRANGEMENTS[arrangement] else 5e-3
    small = {
        "rollout": {"engine": engine, "batch_size": 16, "max_new_tokens": 8},
        "minibatch_size": 8,
        "steps": 5,
        "learning_rate": rate,
        "critic": {"learning_rate": 3e-3, "init": "reward" if arrangement == "separate" else "policy"},
        "kl": {"coefficient": 0.01},
        "missing_eos": None,
        "checkpoint_every": 2,
    }
    return PPOConfig.model_validate(references | small | ARRANGEMENTS[arrangement] | options)


@pytest.fixture(scope="module")
def old_texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("old") / "texts.jsonl"
    texts = [" ".join(f"w{token}" for token in ids) for ids in prompts_of(40, seed=5)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def everything(old_texts):
    """All that a checkpoint must carry, switched on together."""
    return {
        "kl": {"coefficient": 0.1, "target": 0.01, "horizon": 100},
        "scores": {"normalise": "running", "clip": 3.0},
        "reference_reset_every": 2,
        "ptx": {"data": {"path": str(old_texts)}, "coefficient": 0.5, "batch_size": 4},
        "missing_eos": {"mode": "subtract", "value": 0.5},
        "entropy_bonus": 0.01,
    }


@pytest.mark.parametrize(
    "arrangement",
    [
        "shared_base",
        "value_head",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ARRANGEMENTS if "bits" in name or "head, " in name),
    ],
)
def test_every_sharing_arrangement_learns_what_the_scorer_likes(inputs, tmp_path, arrangement):  # noqa: F811
    stage.run(
        config_in(inputs, arrangement, steps=30, checkpoint_every=None), inputs, Context.at(tmp_path), count_liked
    )
    rows = metrics_of(tmp_path)
    first, last = (sum(row["rollout/score"] for row in part) / 4 for part in (rows[:4], rows[-4:]))
    assert last > first + 1.0
    assert rows[0]["rollout/kl"] == pytest.approx(0, abs=1e-5) and rows[-1]["rollout/kl"] > 0.3
    assert load_causal_lm(tmp_path).state_dict().keys() == load_causal_lm(inputs["model"].path).state_dict().keys()


def run_until(call, config, inputs, context):  # noqa: F811
    """The run is cut off as the scorer is called for the `call`-th time."""
    calls = []

    def scorer(completions, rows):
        calls.append(1)
        if len(calls) == call:
            raise Killed
        return count_liked(completions, rows)

    with pytest.raises(Killed):
        stage.run(config, inputs, context, scorer)


def measured(folder):
    timed = ("time", "speed")
    return [{name: value for name, value in row.items() if not name.startswith(timed)} for row in metrics_of(folder)]


@EACH
def test_a_run_with_everything_on_resumes_to_the_bit(inputs, tmp_path, old_texts, arrangement):  # noqa: F811
    config = config_in(inputs, arrangement, steps=6, **everything(old_texts))
    stage.run(config, inputs, Context.at(tmp_path / "whole"), count_liked)
    expected = measured(tmp_path / "whole")
    assert len({row["kl/coefficient"] for row in expected}) == 6
    assert all(abs(expected[step]["rollout/kl"]) < 1e-5 for step in (2, 4))  # the reference was reset
    assert all(row["ptx/loss"] > 0 for row in expected)
    cut = {name: number for number, name in enumerate(ARRANGEMENTS, 1)}[arrangement]  # each at another step
    context = Context.at(tmp_path / "cut")
    run_until(cut, config, inputs, context)
    torch.manual_seed(999)  # a new process starts with other random states
    stage.run(config, inputs, context, count_liked)
    assert_same_weights(weights_of(tmp_path / "cut"), weights_of(tmp_path / "whole"))
    assert measured(tmp_path / "cut") == expected


@needs_vllm
def test_vllm_gets_the_merged_weights_of_an_adapter(inputs, tmp_path):  # noqa: F811
    config = config_in(inputs, "shared_base", engine="vllm", steps=3)
    stage.run(config, inputs, Context.at(tmp_path), count_liked)
    rows = metrics_of(tmp_path)
    assert rows[-1]["rollout/kl"] > 0.01
    assert all(row["sync/logprob_gap"] < 1e-4 and row["rollout/sampler_gap"] < 1e-4 for row in rows)


def test_the_coefficient_waits_for_the_policy_while_the_critic_warms_up(inputs, tmp_path):  # noqa: F811
    """A policy that stands still has no KL; that is no reason to lower the penalty."""
    critic = {"warmup_steps": 2, "init": "policy", "learning_rate": 3e-3}
    kl = {"coefficient": 0.1, "target": 0.01, "horizon": 100}
    config = config_in(inputs, "value_head", steps=4, critic=critic, kl=kl)
    stage.run(config, inputs, Context.at(tmp_path), count_liked)
    rows = metrics_of(tmp_path)
    assert [abs(row["rollout/kl"]) < 1e-5 for row in rows] == [True, True, True, False]
    # used in steps 1 to 3: as it began; then step 3's KL of 0, an error clipped at a fifth, over 16 of 100 sequences
    assert [row["kl/coefficient"] for row in rows] == pytest.approx([0.1, 0.1, 0.1, 0.1 * (1 - 0.2 * 16 / 100)])


def failing(steps, bad=math.nan):
    """A scorer whose last score is bad in these steps, counted from 1."""
    calls = []

    def scorer(completions, rows):
        calls.append(1)
        scores = count_liked(completions, rows)
        if len(calls) in steps:
            scores[-1] = bad
        return scores

    return scorer


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_bad_score_costs_its_step_and_nothing_else(inputs, tmp_path, old_texts, bad):  # noqa: F811
    options = {name: value for name, value in everything(old_texts).items() if name != "reference_reset_every"}
    options["scores"] = {"normalise": "running"}
    config = config_in(inputs, "separate", steps=5, epochs=4, **options)
    stage.run(config, inputs, Context.at(tmp_path), failing({3}, bad))
    rows = metrics_of(tmp_path)
    assert [row["update/skipped"] for row in rows] == [0, 0, 8, 0, 0]
    assert "policy/loss" not in rows[2]
    assert all(isinstance(value, float | int) for row in rows[3:] for value in row.values())
    assert rows[3]["rollout/kl"] != rows[2]["rollout/kl"] and rows[4]["ptx/loss"] < rows[0]["ptx/loss"]
    assert all(weight.isfinite().all() for weight in weights_of(tmp_path).values())


def test_a_scorer_that_stays_bad_ends_the_run_and_names_the_checkpoint_before(inputs, tmp_path):  # noqa: F811
    config = config_in(inputs, "separate", steps=8, checkpoint_every=1, guard={"patience": 3})
    context = Context.at(tmp_path)
    with pytest.raises(SuiteError) as raised:
        stage.run(config, inputs, context, failing(range(3, 9)))
    message = str(raised.value)
    assert "in 3 steps in a row every update had a gradient that was not finite" in message
    assert "the last good checkpoint is that of step 2" in message
    assert len(metrics_of(tmp_path)) == 4
    resumed = stage.run(config, inputs, context, count_liked)  # its scorer mended
    assert resumed["steps"] == 8 and [row["step"] for row in metrics_of(tmp_path)] == list(range(1, 9))


def test_a_scorer_that_never_says_a_number_ends_the_run_without_a_checkpoint(inputs, tmp_path):  # noqa: F811
    config = config_in(inputs, "separate", guard={"patience": 2})
    with pytest.raises(SuiteError, match="there is no checkpoint before this"):
        stage.run(config, inputs, Context.at(tmp_path), failing(range(1, 20)))
