"""Kullback-Leibler divergence between two models' next-token distributions, over the whole vocabulary. Tensors in, tensors out."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Head = Callable[[Tensor], Tensor]
_AT_ONCE = 1 << 23  # logits of one model held in float64 at a time: 64 MiB, and some six times that at the peak


def position_kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """sum_v p(v) log(p(v) / q(v)) in nats, where p and q are the softmax of the logits. [R, V], [R, V] -> [R], float64.

    In float64 whatever the logits are: between near models it is a small difference of large numbers. 0 log 0 = 0; infinite where
    q rules out what p allows.
    """
    p, q = p_logits.double().log_softmax(-1), q_logits.double().log_softmax(-1)
    return (p.exp() * (p - q)).masked_fill_(p == -math.inf, 0).sum(-1)


def position_kl_by_parts(p: Tensor, p_head: Head, q: Tensor, q_head: Head, vocabulary: int) -> Tensor:
    """`position_kl(p_head(p), q_head(q))`, with logits for a few positions at a time. p, q: [R, H], H of each model's own.

    The same numbers whatever the size of the parts: positions are independent.
    """
    rows = max(1, _AT_ONCE // vocabulary)
    parts = zip(p.split(rows), q.split(rows), strict=True)
    return torch.cat([position_kl(p_head(some), q_head(others)) for some, others in parts])


def sequence_sums(numbers: Tensor, owners: Tensor, sequences: int) -> Tensor:
    """Sum of the numbers of each sequence. numbers, owners (whose position it is): [R] -> [B]."""
    return numbers.new_zeros(sequences).index_add_(0, owners, numbers)
