"""Log-probabilities and entropy from hidden states, without ever holding the logits of a whole batch.

With a vocabulary of 150,000 the logits of 4 x 1,024 tokens are 2.5 GB in fp32, and a softmax with its gradient needs several
copies. So the output head is applied to a few hundred tokens at a time, and the backward pass computes them once more.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from alignment.ppo.maths import entropy_of, token_logprobs

_CHUNK = 1 << 25  # logits held at once: 128 MiB in fp32


def logprobs_and_entropy(
    states: Tensor, head: Callable[[Tensor], Tensor], targets: Tensor, temperature: float, with_entropy: bool
) -> tuple[Tensor, Tensor | None]:
    """log p(target) and the entropy, in nats, of softmax(head(state) / temperature). [R, H], [R] -> [R], [R]; fp32.

    The same numbers whatever the chunk: rows are independent.
    """
    vocabulary = _width(head, states)
    rows = max(1, _CHUNK // vocabulary)
    if len(targets) <= rows:
        return _of(states, head, targets, temperature, with_entropy)
    parts = []
    for some, wanted in zip(states.split(rows), targets.split(rows), strict=True):
        if torch.is_grad_enabled():
            parts.append(checkpoint(_of, some, head, wanted, temperature, with_entropy, use_reentrant=False))
        else:
            parts.append(_of(some, head, wanted, temperature, with_entropy))
    logprobs = torch.cat([part[0] for part in parts])
    return logprobs, torch.cat([part[1] for part in parts]) if with_entropy else None


def _of(
    states: Tensor, head: Callable[[Tensor], Tensor], targets: Tensor, temperature: float, with_entropy: bool
) -> tuple[Tensor, Tensor | None]:
    logits = head(states)
    return token_logprobs(logits, targets, temperature), entropy_of(logits, temperature) if with_entropy else None


@torch.no_grad()
def _width(head: Callable[[Tensor], Tensor], states: Tensor) -> int:
    weight = getattr(head, "weight", None)
    return weight.shape[0] if weight is not None else head(states[:1]).shape[-1]
