"""One training in a process of its own: `python -m benchmarks.memory.measure MODEL WAY FOLDER` prints its summary and the measured peak."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import bitsandbytes  # noqa: F401  imported before the memory is read, as the runner preloads libraries
import peft  # noqa: F401
import torch

from alignment.core.artifact import Artifact
from alignment.core.config import DataRef
from alignment.core.context import Context
from alignment.data.rows import load_rows, write_rows
from alignment.lab.config import PretrainConfig
from alignment.lab.stage import make_model
from alignment.lab.tokenizer import make_tokenizer
from alignment.memory.peak import Peak
from alignment.sft.config import SFTConfig
from alignment.sft.stage import run
from benchmarks.memory.cases import MODELS, STORIES, WAYS


def measure(model: str, way: str, folder: Path) -> dict[str, Any]:
    """MiB: `measured` at most over what the process held before, `estimated` before the training; and their parts."""
    torch.set_num_threads(1)
    path, data = prepare(model, folder)
    config = SFTConfig.model_validate({"model": {"path": str(path)}, "data": data} | MODELS[model].settings | WAYS[way])
    peak = Peak()
    summary = run(config, {"model": Artifact("model", model, path)}, Context.at(folder / "out"))
    return {
        "model": model,
        "way": way,
        "measured": peak.mib(),
        "estimated": summary["estimated_memory_mib"],
        "parts": summary["memory_parts_mib"],
        "trainable": summary["trainable_parameters"],
        "parameters": summary["parameters"],
    }


def prepare(model: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Where the model lies, and what it learns. Two of them are drawn at random: what counts is their size."""
    if model == "stories":
        rows = load_rows(DataRef.model_validate({"path": STORIES[1], "rows": 400}), where="data")
        write_rows(rows, folder / "rows.jsonl")
        return Path(os.path.expandvars(STORIES[0])), {"path": str(folder / "rows.jsonl")}
    tokenizer = make_tokenizer()
    sizes = {"hidden_size": 768, "layers": 13} if model == "wide" else {}
    path = folder / "model"
    make_model(PretrainConfig.model_validate(sizes), tokenizer, seed=0).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path, {"lab": "demonstrations", "rows": 400}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
