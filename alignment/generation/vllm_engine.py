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
from torch import Tensor, distributed

from alignment.core.config import Precision
from alignment.generation.adapters import check_adapter, lora_options
from alignment.generation.engine import Completion, Sampling
from alignment.generation.stopping import cut_at_eos
from alignment.generation.vllm_settings import (
    BLOCK,
    DTYPES,
    ENVIRONMENT,
    cache_bytes,
    check_head_size,
    probe_parameters,
    sampling_parameters,
)
from alignment.generation.weights import complete, outline_of
from alignment.generation.worker_extension import repack
from alignment.models.load import read_config

_PREFILL_TOKENS = 8192


class VllmEngine:
    """In-process vLLM: memory sized to the batch, no prefix cache (it would outlive the weights), no compilation.

    Under torchrun every process has an engine of its own for its share of the prompts; they start together.
    """

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
        adapter_rank: int | None = None,
    ) -> None:
        config, self._outline = read_config(model_path).get_text_config(), outline_of(model_path)
        check_head_size(config, model_path, device)
        # The engine lives in this process: weights are handed over in memory.
        for key, value in {**ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}.items():
            os.environ.setdefault(key, value)
        self._borrows_process_group = distributed.is_initialized()
        with _surroundings_kept():
            import vllm

            self._llm: Any = vllm.LLM(
                model=str(model_path),
                skip_tokenizer_init=True,
                generation_config="vllm",  # not the model folder's, which may hold top-p, top-k and the like
                dtype=DTYPES[precision],
                max_model_len=max_tokens,
                max_num_seqs=batch_size,
                max_num_batched_tokens=min(
                    max(batch_size * max_prompt_tokens, max_tokens), _PREFILL_TOKENS + max_tokens
                ),
                block_size=BLOCK[device],
                kv_cache_memory_bytes=cache_bytes(config, max_tokens, batch_size, precision, device),
                gpu_memory_utilization=0.3,
                enable_prefix_caching=False,
                enforce_eager=True,
                enable_sleep_mode=device == "cuda",
                logprobs_mode="processed_logprobs",
                disable_log_stats=True,
                seed=seed,
                **_executor(),
                **lora_options(adapter_rank, self._outline),
            )
        self.name = f"vLLM {vllm.__version__.split('+')[0]} (in process)"
        self._eos, self._device, self._adapter_rank = eos, device, adapter_rank
        self._adapter: Any = None
        self._adapters_loaded = 0

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[Completion]:
        """One completion per prompt, in order. A response depends on its own seed alone."""
        requests = [sampling_parameters(sampling, index, self._eos) for index in range(len(prompts))]
        completions = []
        for prompt, output in zip(prompts, self._run(prompts, requests), strict=True):
            answer = output.outputs[0]
            response, finished = cut_at_eos(answer.token_ids, self._eos)
            logprobs = [step[token].logprob for token, step in zip(response, answer.logprobs, strict=False)]
            completions.append(Completion(prompt, response, logprobs, finished))
        return completions

    def logprobs(self, sequences: Sequence[list[int]]) -> list[list[float]]:
        """log p(token t | < t) at temperature 1, for t >= 1 of each sequence. It must leave room for one token more."""
        outputs = self._run(sequences, [probe_parameters()] * len(sequences))
        return [
            [step[token].logprob for token, step in zip(ids[1:], output.prompt_logprobs[1:], strict=False)]
            for ids, output in zip(sequences, outputs, strict=True)
        ]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replace the weights in place (10 ms for 2M parameters). Raises ValueError if one is missing."""
        self._drop_adapter()
        self._llm.collective_rpc(
            "reload_weights", kwargs={"weights_iterator": complete(weights, self._outline.parameters)}
        )
        self._llm.apply_model(repack)

    def load_adapter(self, folder: Path) -> None:
        """Serve this LoRA adapter. Raises ModelError if vLLM cannot."""
        from vllm.lora.request import LoRARequest

        check_adapter(folder, self._adapter_rank, self._outline)
        self._drop_adapter()
        self._adapters_loaded += 1  # vLLM keeps adapters by number: a number used twice would be the old one
        adapter = LoRARequest(f"adapter-{self._adapters_loaded}", self._adapters_loaded, str(folder))
        self._llm.llm_engine.add_lora(adapter)
        self._adapter = adapter

    def sleep(self) -> None:
        """On CUDA: weights to main memory, key-value cache freed. Elsewhere without effect."""
        if self._device == "cuda":
            self._llm.sleep(level=1)

    def wake(self) -> None:
        """Undoes `sleep`."""
        if self._device == "cuda":
            self._llm.wake_up()

    def close(self) -> None:
        """Frees weights and cache and vLLM's process groups, so that another engine can be opened."""
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        with _process_group_kept() if self._borrows_process_group else contextlib.nullcontext():
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
            cleanup_dist_env_and_memory()

    def _drop_adapter(self) -> None:
        if self._adapter is not None:
            self._llm.llm_engine.remove_lora(self._adapter.lora_int_id)
            self._adapter = None

    def _run(self, prompts: Sequence[list[int]], requests: Sequence[dict[str, Any]]) -> list[Any]:
        from vllm import SamplingParams

        # vLLM compiles a few small functions of its sampler at the first batch (2 to 19 s); eager gives the same numbers.
        with torch.compiler.set_stance("force_eager"):
            return self._llm.generate(
                [{"prompt_token_ids": ids} for ids in prompts],
                [SamplingParams(**request) for request in requests],
                use_tqdm=False,
                lora_request=self._adapter,
            )


def _executor() -> dict[str, str]:
    """Under torchrun vLLM takes rank and GPU from its environment and uses the process group that is there; each process
    then is a replica of its own, free to generate when it likes."""
    launched = distributed.is_initialized() and "LOCAL_RANK" in os.environ
    return {"distributed_executor_backend": "external_launcher"} if launched else {}


@contextlib.contextmanager
def _process_group_kept() -> Iterator[None]:
    """vLLM's shutdown destroys its own process groups, and then the one that it found: the trainer's."""
    destroy = distributed.destroy_process_group

    def destroy_but_the_default(group: Any = None) -> None:
        if group is not None:
            destroy(group)

    distributed.destroy_process_group = destroy_but_the_default
    try:
        yield
    finally:
        distributed.destroy_process_group = destroy


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
