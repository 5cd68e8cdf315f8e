"""The protocol that every rollout engine follows: token ids in, token ids out. Tokenizing is the caller's."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

EngineName = Literal["auto", "vllm", "hf"]


@dataclass(frozen=True)
class Sampling:
    """temperature: divides the logits; 0 = greedy. seed: one number per request is derived from it."""

    max_new_tokens: int
    temperature: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Completion:
    """One answer. `response_ids` includes the EOS when `finished`; a response cut by the length limit has none.
    `logprobs[t]`: the sampler's log-probability of `response_ids[t]` at the sampling temperature."""

    prompt_ids: list[int]
    response_ids: list[int]
    logprobs: list[float]
    finished: bool


class Engine(Protocol):
    name: str

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[Completion]:
        """One completion per prompt, in order."""
        ...

    def logprobs(self, sequences: Sequence[list[int]]) -> list[list[float]]:
        """log p(token t | < t) at temperature 1 for t >= 1 of each sequence: what proves that the weights have arrived."""
        ...

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replace the engine's weights by these, named as in the Hugging Face model."""
        ...

    def close(self) -> None: ...


def resolve_engine(name: EngineName) -> Literal["vllm", "hf"]:
    """What `auto` means on this machine. Resolved before a cell's digest is taken."""
    if name == "auto":
        return "vllm" if importlib.util.find_spec("vllm") else "hf"
    return name
