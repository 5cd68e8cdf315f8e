"""Imported once by the server that all cells are forked from: these libraries take 10 to 20 s to import on two cores."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle OpenMP threads of one cell must not spin on another's core
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

_HEAVY = (
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "trl.trainer.sft_trainer",
    "trl.trainer.reward_trainer",
    "lm_eval",
    "vllm",
)

logging.disable(logging.WARNING)
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    for _name in _HEAVY:
        if importlib.util.find_spec(_name.partition(".")[0]):
            importlib.import_module(_name)
logging.disable(logging.NOTSET)
