"""A classifier whose training was killed ends as one that was not, with its adapter and the head beside it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file
from small_models import save_small
from test_sft_killed import read_losses, wait_for

from alignment.classify.config import ClassifyConfig
from alignment.classify.stage import run
from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.data.rows import write_rows

PROGRAM = """
import sys, json
from pathlib import Path
from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.classify.config import ClassifyConfig
from alignment.classify.stage import run
model, out, config = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
run(ClassifyConfig.model_validate(config), {"model": Artifact("model", "m", model)}, Context.at(out, seed=7))
"""


def test_killed_and_resumed_equals_never_killed(tmp_path: Path):
    words = ["the", "cow", "dog", "cat", "is", "was", "red", "blue", "good", "bad"]
    folder = save_small("distilbert", tmp_path / "small", words)
    rows = [{"text": " ".join([a, b] * (n % 3 + 1)), "label": n % 2} for n, a in enumerate(words) for b in words]
    write_rows(rows, tmp_path / "rows.jsonl")
    settings = {
        "model": {"path": "m"},
        "data": {"path": str(tmp_path / "rows.jsonl")},
        "steps": 120,  # several epochs of 25 steps
        "batch_size": 4,
        "learning_rate": 1e-3,
        "peft": {"r": 4, "dropout": 0.1},
        "checkpoint_every": 15,
    }
    command = [sys.executable, "-c", PROGRAM, str(folder), str(tmp_path / "killed"), json.dumps(settings)]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    marker = tmp_path / "killed" / "scratch" / "checkpoints" / "checkpoint-45" / "complete.json"
    wait_for(marker.exists, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "model.safetensors").exists()

    config, inputs = ClassifyConfig.model_validate(settings), {"model": Artifact("model", "m", folder)}
    resumed = run(config, inputs, Context.at(tmp_path / "killed", seed=7))
    whole = run(config, inputs, Context.at(tmp_path / "whole", seed=7))
    assert (resumed["steps"], resumed["train_loss"]) == (whole["steps"], whole["train_loss"])
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("killed", "whole"))
    assert all((one[name] == other[name]).all() for name in other)
    assert read_losses(tmp_path / "killed" / "metrics.jsonl") == read_losses(tmp_path / "whole" / "metrics.jsonl")
