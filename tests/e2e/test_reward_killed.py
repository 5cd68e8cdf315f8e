import json
import os
import signal
import subprocess
import sys
import time

from safetensors.torch import load_file

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.data.rows import write_rows
from reward.config import RewardConfig
from reward.stage import run

PROGRAM = """
import sys, json
from pathlib import Path
from alignment.core.artifact import Artifact
from alignment.core.context import Context
from reward.config import RewardConfig
from reward.stage import run
model, out, config = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
run(RewardConfig.model_validate(config), {"model": Artifact("model", "d", model)}, Context.at(out, seed=7))
"""


def test_killed_and_resumed_equals_never_killed(tiny_folder, tmp_path):
    words = ["the", "cow", "dog", "cat", "is", "was", "red", "blue", "big", "small"]
    rows = [
        {"prompt": f"why {a}", "chosen": f" good {b}" * (n % 3 + 1), "rejected": f" bad {b}"}
        for n, a in enumerate(words)
        for b in words
    ]
    write_rows(rows, tmp_path / "rows.jsonl")
    settings = {
        "model": {"path": "m"},
        "data": {"path": str(tmp_path / "rows.jsonl")},
        "pooling": "mean",
        "epochs": 3,
        "batch_size": 4,
        "checkpoint_every": 15,
    }
    command = [sys.executable, "-c", PROGRAM, str(tiny_folder), str(tmp_path / "killed"), json.dumps(settings)]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    marker = tmp_path / "killed" / "scratch" / "checkpoints" / "checkpoint-45" / "complete.json"
    end = time.time() + 120
    while not marker.exists():  # in the second of three epochs
        assert process.poll() is None and time.time() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "model.safetensors").exists()

    config, inputs = RewardConfig.model_validate(settings), {"model": Artifact("model", "d", tiny_folder)}
    resumed = run(config, inputs, Context.at(tmp_path / "killed", seed=7))
    whole = run(config, inputs, Context.at(tmp_path / "whole", seed=7))
    assert {**resumed, "seconds": 0} == {**whole, "seconds": 0} and whole["steps"] == 75
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("killed", "whole"))
    assert all((one[name] == other[name]).all() for name in other)
