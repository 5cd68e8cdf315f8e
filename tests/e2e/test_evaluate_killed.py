"""An evaluation that is killed leaves nothing that could pass for a result; started again, it gives what it always gives."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from alignment.core.artifact import Artifact
from alignment.core.config import ModelRef
from alignment.core.context import Context
from alignment.lab.config import PretrainConfig
from alignment.lab.stage import make_model
from alignment.lab.tokenizer import make_tokenizer
from eval import stage
from eval.config import EvaluateConfig

REPOSITORY = Path(__file__).parents[2]
CONFIG = EvaluateConfig(model=ModelRef(stage="base"), target=["lab_service"], retained=["lab_facts"], limit=100)
CHILD = f"""
import sys
from pathlib import Path
from alignment.core.artifact import Artifact
from alignment.core.context import Context
from eval import stage
from eval.config import EvaluateConfig
config = EvaluateConfig.model_validate_json({CONFIG.model_dump_json()!r})
stage.run(config, {{"model": Artifact("model", "x", Path(sys.argv[1]))}}, Context.at(Path(sys.argv[2])))
"""


def save_model(folder: Path) -> Path:
    tokenizer = make_tokenizer()
    make_model(PretrainConfig(hidden_size=64), tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def phase(workdir: Path) -> str:
    try:
        return json.loads((workdir / "progress.json").read_text())["phase"]
    except (FileNotFoundError, json.JSONDecodeError):
        return ""


def test_a_killed_evaluation_starts_anew(tmp_path):
    model = save_model(tmp_path / "model")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(model), str(killed)], env=os.environ | {"PYTHONPATH": str(REPOSITORY)}
    )
    try:
        while not phase(killed).startswith("lab_service"):
            assert child.poll() is None, "the child ended before it could be killed"
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert not (killed / "evaluation.json").exists() and not (killed / "items.parquet").exists()
    for workdir in (killed, whole):
        stage.run(CONFIG, {"model": Artifact("model", "x", model)}, Context.at(workdir))
    for name in ("evaluation.json", "items.parquet"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
