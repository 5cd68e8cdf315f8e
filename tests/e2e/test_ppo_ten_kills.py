"""kill -9 at ten random instants, in every arrangement: the weights at the end are those of a run that nobody touched."""

import hashlib
import importlib.util
import multiprocessing
import random
import time

import pytest
from test_ppo_stage import count_liked, inputs, metrics_of  # noqa: F401

from alignment.core.context import Context
from alignment.ppo import stage
from alignment.ppo.config import PPOConfig

KILLS, STEPS = 10, 90
LORA = {"peft": {"r": 8, "alpha": 16}}
ARRANGEMENTS = {
    "separate": {"critic": {"learning_rate": 3e-3}},
    "shared_base": {"arrangement": "shared_base", "critic": {"learning_rate": 3e-3, "init": "policy"}} | LORA,
    "value_head": {"arrangement": "value_head", "critic": {"learning_rate": 3e-3, "init": "policy"}},
}
ENGINE = "vllm" if importlib.util.find_spec("vllm") else "hf"


def train(config, inputs, folder):  # noqa: F811
    stage.run(PPOConfig.model_validate(config), inputs, Context.at(folder), count_liked)


def start(config, inputs, folder):  # noqa: F811
    """A process of its own, forked from a server that has done the imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "peft", "alignment.ppo.stage", "test_ppo_stage", ENGINE])
    process = context.Process(target=train, args=(config, inputs, folder))
    process.start()
    return process


def steps_done(folder):
    return len(metrics_of(folder)) if (folder / "metrics.jsonl").exists() else 0


def digest_of(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.slow  # a minute or two each
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_ten_kills_at_random_instants_leave_the_digest_of_an_untouched_run(inputs, tmp_path, arrangement):  # noqa: F811
    references = {role: {"path": str(inputs[role].path)} for role in ("model", "reward", "prompts")}
    config = references | {
        "rollout": {"engine": ENGINE, "batch_size": 16, "max_new_tokens": 8},
        "minibatch_size": 8,
        "steps": STEPS,
        "learning_rate": 3e-3,
        "kl": {"coefficient": 0.1, "target": 0.1, "horizon": 100},
        "scores": {"normalise": "running"},
        "checkpoint_every": 1,
        **ARRANGEMENTS[arrangement],
    }
    started = time.monotonic()
    untouched = start(config, inputs, tmp_path / "untouched")
    untouched.join()
    seconds = time.monotonic() - started
    assert untouched.exitcode == 0
    step_seconds = metrics_of(tmp_path / "untouched")[-1]["time/step"]
    loading = seconds - STEPS * step_seconds

    killed, instants, resumed_from = tmp_path / "killed", random.Random(arrangement), set()
    for number in range(KILLS):
        before = steps_done(killed)
        process = start(config, inputs, killed)
        if number % 3 == 0:  # anywhere, most likely while models load or the engine starts
            process.join(instants.uniform(0, loading))
        else:  # within a few steps of the first new one
            while process.exitcode is None and steps_done(killed) == before:
                time.sleep(0.005)
            process.join(instants.uniform(0, 3 * step_seconds))
        assert process.exitcode is None, "the run was over before it could be killed"
        process.kill()
        process.join()
        resumed_from.add(steps_done(killed))
    final = start(config, inputs, killed)
    final.join()
    assert final.exitcode == 0
    assert digest_of(killed) == digest_of(tmp_path / "untouched")
    assert len(resumed_from) >= KILLS // 2, "most kills came before any step was done"
    assert [row["step"] for row in metrics_of(killed)] == list(range(1, STEPS + 1))
