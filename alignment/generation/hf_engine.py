"""Rollouts by transformers' own `generate`: the engine for machines without vLLM, and the reference in tests."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from alignment.core.config import Precision
from alignment.core.errors import ModelError
from alignment.generation.engine import Completion, Sampling
from alignment.generation.stopping import cut_at_eos
from alignment.generation.weights import complete
from alignment.models.load import load_to_read


class HfEngine:
    """Left-padded batches, sorted by prompt length. Every request has a random stream of its own, so a response does not
    depend on which others share its batch."""

    def __init__(
        self,
        model_path: Path,
        *,
        max_tokens: int,
        batch_size: int,
        precision: Precision,
        eos: tuple[int, ...],
        device: str,
    ) -> None:
        self.name = f"transformers {transformers.__version__} generate"
        model: Any = load_to_read(model_path, precision)
        self._model: Any = model.to(device)
        self._batch_size, self._max_tokens, self._eos, self._device = batch_size, max_tokens, eos, device

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[Completion]:
        """One completion per prompt, in order."""
        completions: dict[int, Completion] = {}
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            seeds = [sampling.request_seed(index) for index in batch]
            answers = self._generate([prompts[index] for index in batch], sampling, seeds)
            completions |= dict(zip(batch, answers, strict=True))
        return [completions[index] for index in range(len(prompts))]

    @torch.inference_mode()
    def _generate(self, prompts: Sequence[list[int]], sampling: Sampling, seeds: Sequence[int]) -> list[Completion]:
        pad, width = self._eos[0], max(map(len, prompts))
        input_ids = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts], device=self._device)
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=self._device)
        sampler = _Sampler(sampling.temperature, seeds, self._device)
        # An own, complete generation config: the model folder's may hold top-p, top-k and the like.
        options = transformers.GenerationConfig(
            max_new_tokens=sampling.max_new_tokens, do_sample=False, eos_token_id=list(self._eos), pad_token_id=pad
        )
        self._model.generation_config = options
        output: Any = self._model.generate(
            input_ids=input_ids,
            attention_mask=mask,
            generation_config=options,
            logits_processor=LogitsProcessorList([sampler]),
        )
        logprobs = torch.stack(sampler.logprobs, dim=1).tolist()
        completions = []
        for row, prompt in enumerate(prompts):
            response, finished = cut_at_eos(output[row, width:].tolist(), self._eos)
            completions.append(Completion(prompt, response, logprobs[row][: len(response)], finished))
        return completions

    @torch.inference_mode()
    def logprobs(self, sequences: Sequence[list[int]]) -> list[list[float]]:
        """log p(token t | < t) at temperature 1, for t >= 1 of each sequence."""
        scored = []
        for ids in sequences:
            tokens = torch.tensor([ids], device=self._device)
            logits = self._model(input_ids=tokens, use_cache=False).logits[0, :-1].float()
            scored.append(logits.log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0].tolist())
        return scored

    @torch.no_grad()
    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copies into the weights of the same names. Tied weights may be named once."""
        own = dict(self._model.named_parameters(remove_duplicate=False))
        for name, weight in complete(weights, {name for name, _ in self._model.named_parameters()}):
            if name not in own:
                raise ValueError(f"{self.name} has no weight {name}")
            own[name].copy_(weight)

    def load_adapter(self, folder: Path) -> None:
        """Raises ModelError: this engine takes whole weights only."""
        raise ModelError(str(folder), f"{self.name} serves no adapters", "whole weights", "send merged weights")

    def sleep(self) -> None:
        """Without effect: the weights are all that it holds, and they stay."""

    def wake(self) -> None:
        """Without effect."""

    def close(self) -> None:
        """Frees the weights."""
        self._model = None


class _Sampler(LogitsProcessor):
    """Draws by the Gumbel-max trick from one generator per row, and notes log p of what it drew.

    `generate` then only has to take the largest entry. log p is that of the distribution drawn from (greedy: the model's
    own).
    """

    def __init__(self, temperature: float, seeds: Sequence[int], device: str) -> None:
        self._temperature = temperature
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self.logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        logprobs = (scores.float() / (self._temperature or 1.0)).log_softmax(-1)
        keys = logprobs
        if self._temperature > 0:
            noise = torch.empty_like(logprobs)
            for row, generator in zip(noise, self._generators, strict=True):
                row.exponential_(generator=generator)
            keys = logprobs - noise.log()
        chosen = keys.argmax(-1, keepdim=True)
        self.logprobs.append(logprobs.gather(-1, chosen)[:, 0])
        return torch.full_like(scores, -math.inf).scatter_(-1, chosen, 0.0)
