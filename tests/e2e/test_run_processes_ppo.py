"""PPO in two processes by `align run`: kill -9 of one rank, the message, the resumed result."""

import json
import signal
import subprocess
import time

import psutil
import pytest
import torch
import yaml
from conftest import ALIGN
from ppo_models import prompts_of, save_tiny_model
from safetensors.torch import load_file

from alignment.models.load import load_tokenizer
from alignment.models.reward_model import Normalisation, new_reward_model


@pytest.fixture
def ppo_recipe(tmp_path):
    """PPO in two processes on a tiny model with a reward model that has learned nothing."""
    policy = save_tiny_model(tmp_path / "policy", eos_bias=2.0)
    reward = new_reward_model(policy)
    reward.save_pretrained(tmp_path / "reward")
    load_tokenizer(policy).save_pretrained(tmp_path / "reward")
    Normalisation(0.0, 1.0).write(tmp_path / "reward")
    rows = [{"prompt": " ".join(f"w{token}" for token in ids)} for ids in prompts_of(48)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ppo = {
        "kind": "ppo",
        "steps": 10,
        "learning_rate": 1e-3,
        "minibatch_size": 8,
        "checkpoint_every": 1,
        "rollout": {"engine": "hf", "batch_size": 16, "max_new_tokens": 16},
        "runtime": {"accelerate": "cpu-2"},
        "model": {"path": str(policy)},
        "reward": {"path": str(tmp_path / "reward")},
        "prompts": {"path": str(tmp_path / "prompts.jsonl")},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "test/ppo", "stages": {"ppo": ppo}}))
    return path


def ranks_under(process):
    """By number, the ranks among a running command's descendants."""
    found = {}
    for one in psutil.Process(process.pid).children(recursive=True):
        try:
            if "recipes.rank" in one.cmdline():
                found[int(one.environ()["RANK"])] = one
        except (psutil.NoSuchProcess, KeyError):
            pass
    return found


def step_of(store):
    try:
        return max(json.loads(path.read_text())["done"] for path in store.glob(".partial/*/progress.json"))
    except (OSError, ValueError):
        return 0


@pytest.mark.slow
def test_ppo_with_a_killed_rank_tells_it_and_resumes_to_what_one_process_makes(tmp_path, align, ppo_recipe):
    store = tmp_path / "runs"
    with (tmp_path / "out.txt").open("w") as out:
        process = subprocess.Popen([ALIGN, "run", ppo_recipe, "--store", store], stdout=out, stderr=subprocess.STDOUT)
        while step_of(store) < 3 and process.poll() is None:
            time.sleep(0.05)
        ranks = ranks_under(process)
        ranks[1].send_signal(signal.SIGKILL)
        assert process.wait(timeout=30) == 1
    said = (tmp_path / "out.txt").read_text()
    assert "error ppo-seed0: rank 1 of 2: was killed by signal 9 (SIGKILL)" in said
    assert "Traceback" not in said
    assert not psutil.wait_procs(list(ranks.values()), timeout=0.1)[1]

    again = align("run", ppo_recipe, "--store", store, cwd=tmp_path)
    assert again.returncode == 0, again.stdout
    (resumed,) = store.glob("test/ppo/ppo-seed0-*")
    assert "resumed after step" in (resumed / "log.txt").read_text()

    one = align("run", ppo_recipe, "--store", "one", "--set", "stages.ppo.runtime={processes: 1}", cwd=tmp_path)
    assert one.returncode == 0, one.stdout
    (alone,) = (tmp_path / "one").glob("test/ppo/ppo-seed0-*")
    assert alone.name == resumed.name  # how many processes is no part of a result's identity
    ours, expected = (load_file(folder / "model.safetensors") for folder in (resumed, alone))
    assert ours.keys() == expected.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], expected[name], atol=1e-4, rtol=0)
    rows = [json.loads(line)["step"] for line in (resumed / "metrics.jsonl").read_text().splitlines()]
    assert rows == list(range(1, 11))
