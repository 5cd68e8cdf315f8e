"""Several models at work at the same time on a CPU, each on its share of the threads.

The products of a small model are too short to keep many threads busy, and between them Python has its turn. Two models side by
side, each on half of the threads, are done sooner than one after the other on all of them: by a seventh to a third on two
threads (benchmarks/README.md). Each model's own numbers come in the same order either way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache, partial
from typing import Any

import torch

Task = Callable[[], Any]


def side_by_side(tasks: Sequence[Task], at_once: bool) -> list[Any]:
    """What the tasks return, in their order. at_once: they share nothing that one of them writes; False = one after the other."""
    threads = torch.get_num_threads()
    lanes = min(len(tasks), threads)
    if not at_once or lanes < 2:
        return [task() for task in tasks]
    in_lane = partial(_in_lane, max(1, threads // lanes), torch.is_grad_enabled())
    dealt = [tasks[lane::lanes] for lane in range(lanes)]
    others = [_threads(lanes - 1).submit(in_lane, share) for share in dealt[1:]]
    try:
        found = [in_lane(dealt[0])]  # here: one more thread would keep one more pool of memory
    finally:
        wait(others)
        torch.set_num_threads(threads)
    found += [other.result() for other in others]
    return [found[number % lanes][number // lanes] for number in range(len(tasks))]


def _in_lane(threads: int, gradients: bool, tasks: Sequence[Task]) -> list[Any]:
    """Both settings belong to a thread, and do not come from the one that started it."""
    torch.set_num_threads(threads)
    with torch.set_grad_enabled(gradients):
        return [task() for task in tasks]


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    """Kept: what a thread has allocated once is there for its next task."""
    return ThreadPoolExecutor(count, "lane")
