"""Several models at work at the same time on a CPU, each on its share of the threads.

The products of a small model are too short to keep many threads busy, and between them Python has its turn. Two models side by
side, each on half of the threads, are done sooner than one after the other on all of them: by a seventh to a third on two
threads (benchmarks/README.md). Each model's own numbers come in the same order either way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
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
    inside = partial(_on_share, max(1, threads // lanes), torch.is_grad_enabled())
    running: list[Future[Any]] = [_lanes(lanes).submit(inside, task) for task in tasks]
    try:
        wait(running)
        return [task.result() for task in running]
    finally:
        torch.set_num_threads(threads)  # part of what a lane sets holds for the whole process


def _on_share(threads: int, gradients: bool, task: Task) -> Any:
    """Both settings belong to a thread, and do not come from the one that started it."""
    torch.set_num_threads(threads)
    with torch.set_grad_enabled(gradients):
        return task()


@cache
def _lanes(count: int) -> ThreadPoolExecutor:
    """Kept: a thread that comes and goes takes its memory pools with it."""
    return ThreadPoolExecutor(count, "model")
