"""The protocol that every rollout engine follows: token ids in, token ids out. Tokenizing is the caller's."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from alignment.core.context import derive_seed

if TYPE_CHECKING:
    from torch import Tensor

EngineName = Literal["auto", "vllm", "vllm_server", "hf"]


@dataclass(frozen=True)
class Sampling:
    """temperature: divides the logits; 0 = greedy. seed: one number per request is derived from it.

    first: index of the first prompt in the global batch. Processes that each hold a slice of the prompts and say where it
    starts sample together exactly what one process would.
    """

    max_new_tokens: int
    temperature: float = 1.0
    seed: int = 0
    first: int = 0

    def request_seed(self, index: int) -> int:
        """Seed of the prompt at `index` of this call."""
        return derive_seed(self.seed, "request", str(self.first + index))


@dataclass(frozen=True)
class Completion:
    """One answer. `response_ids` includes the EOS when `finished`; a response cut by the length limit has none.
    `logprobs[t]`: the sampler's log-probability of `response_ids[t]` at the sampling temperature."""

    prompt_ids: list[int]
    response_ids: list[int]
    logprobs: list[float]
    finished: bool


class Engine(Protocol):
    """Holds the weights that were sent last: those of the model folder at first, then what `load_weights` or
    `load_adapter` brought. Engines of several processes start together: opening one is a collective call."""

    name: str

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[Completion]:
        """One completion per prompt, in order."""
        ...

    def logprobs(self, sequences: Sequence[list[int]]) -> list[list[float]]:
        """log p(token t | < t) at temperature 1 for t >= 1 of each sequence: what proves that the weights have arrived."""
        ...

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replace the engine's weights by these, named as in the Hugging Face model; an adapter loaded before is dropped.

        All of them: raises ValueError if one is missing (tied weights may be named once) or unknown.
        """
        ...

    def load_adapter(self, folder: Path) -> None:
        """From now on generate and judge with this LoRA adapter (a folder written by peft) on the weights held; an adapter
        loaded before is dropped. Raises ModelError for an adapter or an engine that cannot do it."""
        ...

    def sleep(self) -> None:
        """Free the accelerator's memory while nothing is sampled. Without effect on a CPU, where there is none to free."""
        ...

    def wake(self) -> None:
        """Ready again, with the same weights."""
        ...

    def close(self) -> None: ...


def resolve_engine(name: EngineName) -> Literal["vllm", "vllm_server", "hf"]:
    """What `auto` means on this machine. Resolved before a cell's digest is taken."""
    if name == "auto":
        return "vllm" if importlib.util.find_spec("vllm") else "hf"
    return name
