"""What the two vLLM engines share: surroundings, memory, and how a request reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from alignment.core.config import Precision
from alignment.core.errors import ModelError
from alignment.generation.engine import Sampling

ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # pinned, cells that run side by side would all sit on the first core
    "VLLM_NO_USAGE_STATS": "1",
}
BLOCK = {"cpu": 32, "cuda": 16}  # tokens in a block of the key-value cache
DTYPES: dict[Precision, Literal["float32", "bfloat16"]] = {"fp32": "float32", "bf16": "bfloat16"}
_CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)


def sampling_parameters(sampling: Sampling, index: int, eos: Sequence[int]) -> dict[str, Any]:
    """vLLM's SamplingParams of the prompt at `index`. What ends a response is decided by `eos` alone."""
    return {
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_new_tokens,
        "seed": sampling.request_seed(index),
        "logprobs": 0,
        "stop_token_ids": list(eos),
        "ignore_eos": True,
        "detokenize": False,
    }


def probe_parameters() -> dict[str, Any]:
    """vLLM's SamplingParams of a request that is only to be judged. It samples one token, which nobody reads."""
    return {"temperature": 1.0, "max_tokens": 1, "prompt_logprobs": 0, "detokenize": False}


def cache_bytes(config: Any, max_tokens: int, batch_size: int, precision: Precision, device: str) -> int:
    """Bytes of keys and values of `batch_size` sequences of `max_tokens`, in whole blocks, with a tenth to spare."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    token = 2 * config.num_hidden_layers * heads * _head_size(config) * (4 if precision == "fp32" else 2)
    blocks = batch_size * -(-max_tokens // BLOCK[device]) + 8
    return int(1.1 * blocks * BLOCK[device] * token)


def check_head_size(config: Any, model_path: Path, device: str) -> None:
    """Raises ModelError if vLLM has no attention kernel for the model's heads on this device."""
    if device == "cpu" and _head_size(config) not in _CPU_HEAD_SIZES:
        raise ModelError(
            str(model_path),
            f"vLLM's attention on CPU has no kernel for heads of size {_head_size(config)}",
            f"one of {', '.join(map(str, _CPU_HEAD_SIZES))}",
            "set rollout.engine: hf",
        )


def _head_size(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
