"""What a language model costs to run on this machine: parameters, memory, tokens read and written in a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.memory.peak import Peak
from alignment.models.load import context_length, load_causal_lm, load_tokenizer, parameter_counts
from eval.cost_config import CostConfig


def run(config: CostConfig, inputs: Mapping[str, Artifact], context: Context) -> dict[str, Any]:
    """parameters; weights_bytes; peak_memory_mib: the most that reading and writing held above what the libraries take, None where the
    system does not tell; and tokens read and written a second, summed over the sequences."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer: Any = load_tokenizer(inputs["model"].path)
    peak = Peak()
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
        "peak_memory_mib": peak.mib(),
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
