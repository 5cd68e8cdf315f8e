"""Two models measured by lm-eval's own command line compare as they do when the suite measures them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alignment.core.artifact import Artifact
from alignment.core.config import ModelRef
from alignment.core.context import Context
from alignment.lab.config import PretrainConfig
from alignment.lab.stage import run as pretrain
from eval import stage
from eval.compare import compare_models
from eval.config import EvaluateConfig
from eval.results import MeasuredModel

REPOSITORY = Path(__file__).parents[2]
TASKS = ["lab_facts", "lab_agreement", "lab_add"]
SAME = ("metric", "n", "f_adj", "n11", "n10", "n01", "n00", "verdict", "p_method")
NUMBERS = ("delta", "p", "p_adjusted", "mde80")


def lm_eval(model: Path, output: Path) -> None:
    options = ["--model", "hf", "--model_args", f"pretrained={model},dtype=float32", "--device", "cpu"]
    options += ["--batch_size", "64", "--tasks", ",".join(TASKS), "--include_path", str(REPOSITORY / "eval" / "tasks")]
    options += ["--log_samples", "--output_path", str(output)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", *options], cwd=output.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def measured(name: str, model: Path, folder: Path) -> MeasuredModel:
    config = EvaluateConfig(model=ModelRef(stage=name), target=TASKS)
    stage.run(config, {"model": Artifact("model", name, model)}, Context.at(folder))
    return MeasuredModel(name, 0, None, "", folder, {}, None, name)


@pytest.mark.slow
def test_logs_of_the_command_line_give_the_same_comparison(align, tmp_path):
    models = {}
    for name, steps in (("a", 80), ("b", 400)):
        context = Context.at(tmp_path / "models" / name)
        pretrain(PretrainConfig(hidden_size=64, steps=steps, learning_rate=5e-3), {}, context)
        models[name] = measured(name, context.workdir, tmp_path / "ours" / name)
        lm_eval(context.workdir, tmp_path / f"logs-{name}")
    ours = {row.task: row for row in compare_models([models["a"]], [models["b"]]).rows}
    done = align("compare", tmp_path / "logs-a", tmp_path / "logs-b", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    theirs = {row["task"]: row for row in json.loads(done.stdout)["comparisons"]}
    assert set(ours) == set(TASKS) and set(theirs) == {*TASKS, "group:tasks"}
    assert sum(row.delta != 0 for row in ours.values()) >= 2
    for task, row in ours.items():
        mine = row.as_json()
        assert [theirs[task][key] for key in SAME] == [mine[key] for key in SAME], task
        assert theirs[task]["ci"] == pytest.approx(mine["ci"], rel=1e-9)
        for key in NUMBERS:
            assert theirs[task][key] == pytest.approx(mine[key], rel=1e-9), (task, key)
    mixed = align("compare", tmp_path / "logs-a", tmp_path / "ours" / "b", cwd=tmp_path)
    assert mixed.returncode != 0 and "backend differs: 'lm-eval hf'" in " ".join(mixed.stderr.split())
