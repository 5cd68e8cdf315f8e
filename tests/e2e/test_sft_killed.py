import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.data.rows import write_rows
from alignment.sft.config import SFTConfig
from alignment.sft.stage import run

PROGRAM = """
import sys, json
from pathlib import Path
from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.sft.config import SFTConfig
from alignment.sft.stage import run
model, out, config = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
run(SFTConfig.model_validate(config), {"model": Artifact("model", "d", model)}, Context.at(out, seed=7))
"""


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.time() + seconds
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.time() < end, "the run never got there"
        time.sleep(0.01)


@pytest.mark.parametrize(
    "peft",
    [None, {"r": 4, "dropout": 0.1}, {"method": "ptuning", "virtual_tokens": 4}],
    ids=["full", "lora with dropout", "p-tuning, whose network is not part of the result"],
)
def test_killed_and_resumed_equals_never_killed(tiny_folder, tmp_path: Path, peft):
    words = ["the", "cow", "dog", "cat", "is", "was", "red", "blue", "big", "small"]
    rows = [{"prompt": f"why {a} {b}", "completion": f" {b}" * (n % 4 + 1)} for n, a in enumerate(words) for b in words]
    write_rows(rows, tmp_path / "rows.jsonl")
    settings = {
        "model": {"path": "m"},
        "data": {"path": str(tmp_path / "rows.jsonl")},
        "steps": 120,  # several epochs of 25 steps, so the order of a later epoch is resumed too
        "batch_size": 4,
        "peft": peft,
        "checkpoint_every": 15,
    }
    command = [sys.executable, "-c", PROGRAM, str(tiny_folder), str(tmp_path / "killed"), json.dumps(settings)]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    marker = tmp_path / "killed" / "scratch" / "checkpoints" / "checkpoint-45" / "complete.json"
    wait_for(marker.exists, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "model.safetensors").exists()

    config, inputs = SFTConfig.model_validate(settings), {"model": Artifact("model", "d", tiny_folder)}
    resumed = run(config, inputs, Context.at(tmp_path / "killed", seed=7))
    whole = run(config, inputs, Context.at(tmp_path / "whole", seed=7))
    for key in ("train_tokens", "steps", "train_loss"):
        assert resumed[key] == whole[key]
    weights = "adapter/adapter_model.safetensors" if peft else "model.safetensors"
    one, other = (load_file(tmp_path / name / weights) for name in ("killed", "whole"))
    assert all((one[name] == other[name]).all() for name in other)
    curves = [read_losses(tmp_path / name / "metrics.jsonl") for name in ("killed", "whole")]
    assert curves[0] == curves[1] and len(curves[0]) == 1 + 12 + 4  # the first, each 10th, each checkpoint between


def read_losses(path: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(row["step"], row["train/loss"]) for row in rows]
