"""A stage killed with -9 in the middle of its training and started again, beside one that ran undisturbed."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from recipes.stages import KINDS

_SEED = 7


def killed_and_whole(kind: str, model: Path, settings: dict[str, Any], folder: Path, step: int) -> tuple[Any, Any]:
    """Summaries of a stage killed after the checkpoint of `step` and resumed, in `folder`/killed, and of a whole one, in
    `folder`/whole."""
    command = [sys.executable, __file__, kind, str(model), str(folder / "killed"), json.dumps(settings)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    marker = folder / "killed" / "scratch" / "checkpoints" / f"checkpoint-{step}" / "complete.json"
    end = time.time() + 120
    while not marker.exists():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.time() < end, "the run never got there"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "killed" / "model.safetensors").exists()
    resumed, whole = (_run(kind, model, folder / name, settings) for name in ("killed", "whole"))
    return resumed, whole


def read_losses(metrics: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [(row["step"], row["train/loss"]) for row in rows]


def _run(kind: str, model: Path, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    config, run = (_named(name) for name in (KINDS[kind].config, KINDS[kind].run))
    return run(config.model_validate(settings), {"model": Artifact("model", "d", model)}, Context.at(out, seed=_SEED))


def _named(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


if __name__ == "__main__":
    _run(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4]))
