"""How fast this machine multiplies matrices, and how much of that the optimise phase reaches."""

from __future__ import annotations

import json
import sys
import time

from alignment.core.config import Precision
from benchmarks.ppo.cases import Workload
from benchmarks.ppo.outcome import use_threads
from benchmarks.ppo.sides import run_module

_SIZES = (768, 1024, 1536)
_REPEATS = 12


def matmul_limit(precision: Precision) -> float:
    """FLOP/s of the fastest of many products of square matrices."""
    import torch

    use_threads()
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    best = 0.0
    for size in _SIZES:
        left, right = (torch.randn(size, size, dtype=dtype) for _ in range(2))
        for _ in range(_REPEATS):
            started = time.perf_counter()
            torch.mm(left, right)
            best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def measured_limit(precision: Precision) -> float:
    """`matmul_limit` in a process of its own."""
    return json.loads(run_module("benchmarks.ppo.limit", precision).splitlines()[-1])


def optimise_flop(workload: Workload, length: float) -> float:
    """FLOP of one step's optimise phase, real tokens only: 6 for every weight that a token meets, in each epoch, of policy and
    critic (forward 2, backward 4). Products inside attention are not counted, and the head only where it is read.

    length: mean tokens of an answer.
    """
    hidden = workload.hidden_size
    trunk = workload.layers * (4 * hidden**2 + 3 * hidden * 3 * hidden)
    tokens, answers = workload.batch_size * (workload.prompt_tokens + length), workload.batch_size * length
    return 6 * workload.epochs * (2 * trunk * tokens + workload.vocabulary * hidden * answers)


if __name__ == "__main__":
    print(json.dumps(matmul_limit("bf16" if sys.argv[1] == "bf16" else "fp32")))
