"""Opening a rollout engine by name."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

from alignment.core.config import Precision
from alignment.core.errors import ModelError
from alignment.generation.engine import Engine, EngineName, resolve_engine
from alignment.generation.stopping import eos_ids


def open_engine(
    name: EngineName,
    model_path: str | Path,
    *,
    max_prompt_tokens: int,
    max_new_tokens: int,
    batch_size: int,
    precision: Precision = "fp32",
    seed: int = 0,
    url: str | None = None,
    adapter_rank: int | None = None,
) -> Engine:
    """An engine with the weights of `model_path`. Close it when done: `with contextlib.closing(open_engine(...)) as engine`.

    batch_size: how many sequences it works on at once; more prompts than that wait their turn.
    url: of a server started by `python -m alignment.generation.server`, for `vllm_server`.
    adapter_rank: largest rank of LoRA adapters that vLLM shall have room for; None = none are sent.
    Raises ModelError if the model cannot hold `max_prompt_tokens + max_new_tokens`, or if the engine cannot run it;
    SuiteError if no server answers.
    """
    from alignment.models.layout import is_attached
    from alignment.models.load import context_of

    path = Path(model_path)
    limit = context_of(path)
    needed = max_prompt_tokens + max_new_tokens
    if limit is not None and needed > limit:
        raise ModelError(
            str(path),
            f"{max_prompt_tokens} tokens of prompt and {max_new_tokens} new ones do not fit its context of {limit}",
            f"at most {limit} together",
            "lower max_new_tokens or leave out the longest prompts",
        )
    options = {"max_tokens": needed, "batch_size": batch_size, "precision": precision, "eos": eos_ids(path)}
    engine, device = resolve_engine(name), "cuda" if torch.cuda.is_available() else "cpu"
    if engine != "hf" and is_attached(path):
        what = "vLLM cannot serve a model whose adapter is not part of the weights"
        raise ModelError(str(path), what, "transformers' own generate", "set engine: hf")
    if engine == "vllm" and importlib.util.find_spec("vllm") is None:
        raise ModelError("rollout.engine", "vLLM is not installed here", "the package vllm", "set rollout.engine: hf")
    if engine == "vllm":
        from alignment.generation.vllm_engine import VllmEngine

        vllm_options = {"max_prompt_tokens": max_prompt_tokens, "seed": seed, "adapter_rank": adapter_rank}
        return VllmEngine(path, **options, **vllm_options, device=device)
    if engine == "vllm_server":
        from alignment.generation.vllm_server_engine import VllmServerEngine

        if url is None:
            raise ModelError(
                "rollout.url", "not given", "the server's URL", "set rollout.url, or another rollout.engine"
            )
        return VllmServerEngine(path, **options, url=url, adapter_rank=adapter_rank)
    from alignment.generation.hf_engine import HfEngine

    return HfEngine(path, **options, device=device)
