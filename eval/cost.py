"""What a language model costs to run on this machine: parameters, memory, tokens read and written in a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.models.load import context_length, load_causal_lm, load_tokenizer, parameter_counts
from eval.cost_config import CostConfig

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def run(config: CostConfig, inputs: Mapping[str, Artifact], context: Context) -> dict[str, Any]:
    """parameters; weights_bytes; peak_bytes: the most that reading and writing held above what the libraries take; and tokens read
    and written a second, summed over the sequences."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer: Any = load_tokenizer(inputs["model"].path)
    before = _reset_peak(device)
    loaded: Any = load_causal_lm(inputs["model"].path, config.precision, dropout=False)
    model = loaded.to(device).eval()
    tokens = min(config.tokens, (context_length(model) or config.tokens + config.new_tokens) - config.new_tokens)
    generator = torch.Generator().manual_seed(context.seed_for("tokens"))
    ids = torch.randint(len(tokenizer), (config.sequences, tokens), generator=generator).to(device)
    mask = torch.ones_like(ids)
    writing = {"min_new_tokens": config.new_tokens, "max_new_tokens": config.new_tokens, "do_sample": False}
    writing |= {"pad_token_id": tokenizer.pad_token_id}
    with torch.inference_mode():
        read = _seconds(lambda: model(input_ids=ids, attention_mask=mask, use_cache=False), config.repeats, device)
        both = _seconds(lambda: model.generate(input_ids=ids, attention_mask=mask, **writing), config.repeats, device)
    return {
        "parameters": parameter_counts(model)["parameters"],
        "weights_bytes": sum(parameter.nbytes for parameter in model.parameters()),
        "peak_bytes": _peak(device) - before,
        "read_per_second": ids.numel() / read,
        "written_per_second": config.sequences * config.new_tokens / both,
        "tokens": tokens,
    }


def _seconds(work: Callable[[], Any], repeats: int, device: str) -> float:
    """Median of the runs after the first, which warms up."""
    taken = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return median(taken[1:])


def _reset_peak(device: str) -> int:
    """Bytes held now, from which on the peak counts."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    _RESET.write_text("5")  # Linux: the high-water mark starts anew
    return _resident("VmRSS")


def _peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else _resident("VmHWM")


def _resident(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
