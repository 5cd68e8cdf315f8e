"""What the stage stores is what lm-eval's own command line finds on the same checkpoint."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest

from alignment.core.artifact import Artifact
from alignment.core.config import ModelRef
from alignment.core.context import Context
from alignment.lab.config import PretrainConfig
from alignment.lab.stage import run as pretrain
from eval import stage
from eval.config import EvaluateConfig

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def barely_trained(tmp_path_factory):
    """A small lab model of a few steps: right on some items, wrong on others."""
    context = Context.at(tmp_path_factory.mktemp("base"))
    pretrain(PretrainConfig(hidden_size=64, steps=80, learning_rate=5e-3), {}, context)
    return context.workdir


def command_line(model: Path, output: Path, *arguments: str) -> tuple[dict, list[dict]]:
    """lm-eval's results and samples of lab_facts, through `python -m lm_eval`."""
    options = [
        "--model",
        "hf",
        "--model_args",
        f"pretrained={model},dtype=float32",
        "--device",
        "cpu",
        "--batch_size",
        "64",
    ]
    options += ["--tasks", "lab_facts", "--include_path", str(REPOSITORY / "eval" / "tasks"), "--log_samples"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", *options, "--output_path", str(output), *arguments],
        cwd=output.parent,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (results,) = output.rglob("results_*.json")
    (samples,) = output.rglob("samples_*.jsonl")
    return json.loads(results.read_text())["results"], [json.loads(line) for line in samples.read_text().splitlines()]


def test_stored_accuracy_equals_the_command_line(barely_trained, tmp_path):
    config = EvaluateConfig(model=ModelRef(stage="base"), retained=["lab_facts"])
    summary = stage.run(config, {"model": Artifact("model", "x", barely_trained)}, Context.at(tmp_path / "stage"))
    results, samples = command_line(barely_trained, tmp_path / "cli")
    assert 0.1 < summary["lab_facts"] < 0.9
    assert summary["lab_facts"] == pytest.approx(results["lab_facts"]["acc,none"], abs=1e-12)
    ours = pyarrow.parquet.read_table(tmp_path / "stage" / "items.parquet").to_pylist()
    theirs = {sample["doc_id"]: sample for sample in samples}
    for item in ours:
        sample = theirs[item["doc_id"]]
        assert item["score"] == sample["acc"]
        assert [item[key] for key in HASHES] == [sample[key] for key in HASHES]
        assert item["choice_lls"] == pytest.approx([float(ll) for (ll, _), *_ in sample["resps"]], abs=1e-4)


HASHES = ("doc_hash", "prompt_hash", "target_hash")
