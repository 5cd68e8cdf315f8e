"""Rollouts by vLLM inside the trainer's process, on CPU or CUDA, with weights replaced in place."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alignment.core.config import Precision
from alignment.core.context import derive_seed
from alignment.core.errors import ModelError
from alignment.generation.engine import Completion, Sampling
from alignment.generation.stopping import cut_at_eos
from alignment.models.load import read_config

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine lives in this process: weights are handed over in memory
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # pinned, cells that run side by side would all sit on the first core
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
_BLOCK = {"cpu": 32, "cuda": 16}  # tokens in a block of the key-value cache
_PREFILL_TOKENS = 8192
_CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)


class VllmEngine:
    """In-process vLLM: memory sized to the batch, no prefix cache (it would outlive the weights), no compilation."""

    def __init__(
        self,
        model_path: Path,
        *,
        max_tokens: int,
        max_prompt_tokens: int,
        batch_size: int,
        precision: Precision,
        eos: tuple[int, ...],
        device: str,
        seed: int,
    ) -> None:
        config = read_config(model_path).get_text_config()
        _check_head_size(config, model_path, device)
        for key, value in _ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        with _surroundings_kept():
            import vllm

            self._llm: Any = vllm.LLM(
                model=str(model_path),
                skip_tokenizer_init=True,
                generation_config="vllm",  # not the model folder's, which may hold top-p, top-k and the like
                dtype="float32" if precision == "fp32" else "bfloat16",
                max_model_len=max_tokens,
                max_num_seqs=batch_size,
                max_num_batched_tokens=min(
                    max(batch_size * max_prompt_tokens, max_tokens), _PREFILL_TOKENS + max_tokens
                ),
                block_size=_BLOCK[device],
                kv_cache_memory_bytes=_cache_bytes(config, max_tokens, batch_size, precision, device),
                gpu_memory_utilization=0.3,
                enable_prefix_caching=False,
                enforce_eager=True,
                logprobs_mode="processed_logprobs",
                disable_log_stats=True,
                seed=seed,
            )
            self._parameters = vllm.SamplingParams
        self.name = f"vLLM {vllm.__version__.split('+')[0]} (in process)"
        self._eos = eos

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[Completion]:
        """One completion per prompt, in order. A response depends on its own seed alone."""
        requests = [
            self._parameters(
                temperature=sampling.temperature,
                max_tokens=sampling.max_new_tokens,
                seed=derive_seed(sampling.seed, "request", str(index)),
                logprobs=0,
                stop_token_ids=list(self._eos),
                ignore_eos=True,  # what ends a response is decided by `stop_token_ids` alone
                detokenize=False,
            )
            for index in range(len(prompts))
        ]
        completions = []
        for prompt, output in zip(prompts, self._run(prompts, requests), strict=True):
            answer = output.outputs[0]
            response, finished = cut_at_eos(answer.token_ids, self._eos)
            logprobs = [step[token].logprob for token, step in zip(response, answer.logprobs, strict=False)]
            completions.append(Completion(prompt, response, logprobs, finished))
        return completions

    def logprobs(self, sequences: Sequence[list[int]]) -> list[list[float]]:
        """log p(token t | < t) at temperature 1, for t >= 1 of each sequence. It must leave room for one token more."""
        request = self._parameters(temperature=1.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        outputs = self._run(sequences, [request] * len(sequences))
        return [
            [step[token].logprob for token, step in zip(ids[1:], output.prompt_logprobs[1:], strict=False)]
            for ids, output in zip(sequences, outputs, strict=True)
        ]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replace the weights in place (10 ms for 2M parameters)."""
        detached = ((name, weight.detach()) for name, weight in weights)
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": detached})
        self._llm.apply_model(_repack)

    def close(self) -> None:
        """Frees weights and cache and vLLM's process group, so that another engine can be opened."""
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        cleanup_dist_env_and_memory()

    def _run(self, prompts: Sequence[list[int]], requests: Sequence[Any]) -> list[Any]:
        # vLLM compiles a few small functions of its sampler at the first batch (2 to 19 s); eager gives the same numbers.
        with torch.compiler.set_stance("force_eager"):
            return self._llm.generate([{"prompt_token_ids": ids} for ids in prompts], list(requests), use_tqdm=False)


def _repack(model: nn.Module) -> None:
    """Linear layers on CPU compute with a packed copy of their weight. `reload_weights` renews it, except where a head
    shares its weight with the embedding: left alone, that head would keep the old weights without a word."""
    for layer in model.modules():
        if (
            hasattr(layer, "cpu_linear")
            and isinstance(weight := getattr(layer, "weight", None), Tensor)
            and weight.numel()
        ):
            layer.quant_method.process_weights_after_loading(layer)  # type: ignore[operator, union-attr]


def _cache_bytes(config: Any, max_tokens: int, batch_size: int, precision: Precision, device: str) -> int:
    """Bytes of keys and values of a full batch of full-length sequences, in whole blocks, with a tenth to spare."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    token = 2 * config.num_hidden_layers * heads * _head_size(config) * (4 if precision == "fp32" else 2)
    blocks = batch_size * -(-max_tokens // _BLOCK[device]) + 8
    return int(1.1 * blocks * _BLOCK[device] * token)


def _head_size(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _check_head_size(config: Any, model_path: Path, device: str) -> None:
    if device == "cpu" and _head_size(config) not in _CPU_HEAD_SIZES:
        raise ModelError(
            str(model_path),
            f"vLLM's attention on CPU has no kernel for heads of size {_head_size(config)}",
            f"one of {', '.join(map(str, _CPU_HEAD_SIZES))}",
            "set rollout.engine: hf",
        )


@contextlib.contextmanager
def _surroundings_kept() -> Iterator[None]:
    """Undo what starting vLLM does to its process: it cuts torch to one thread, replaces `torch.set_num_threads` by a
    function without effect, may pin cores, and reseeds every library."""
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)
        if cores is not None:
            os.sched_setaffinity(0, cores)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
