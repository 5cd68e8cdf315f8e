"""What one process of either side measured. It leaves through the last line of its output."""

from __future__ import annotations

import json
import os
import resource
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

PHASES = ("generate", "score", "optimise", "sync")  # seconds of each; the peer has nothing to synchronise
_PREFIX = "outcome: "


@dataclass(frozen=True)
class Outcome:
    """steps: of each timed step its seconds by phase (`step` is the whole) and `length`, response tokens of an answer.

    updates: optimiser steps taken in one step. changed: whether training moved the weights. peak_mib: the largest resident
    memory of the process, engine included.
    """

    steps: list[dict[str, float]]
    updates: float
    changed: bool
    peak_mib: float
    threads: int
    versions: dict[str, str]

    def print(self) -> None:
        print("\n" + _PREFIX + json.dumps(asdict(self)), flush=True)


def read_outcome(output: str) -> Outcome:
    """From all that a process has printed, libraries' chatter included."""
    last = [line for line in output.splitlines() if line.startswith(_PREFIX)][-1]
    return Outcome(**json.loads(last.removeprefix(_PREFIX)))


def medians(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of every number of the steps."""
    return {key: statistics.median(step[key] for step in steps) for key in steps[0]}


def peak_mib() -> float:
    """Largest resident memory so far of this process, or of one of its children where that was more. In MiB."""
    kib = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return kib / 1024


def use_threads() -> int:
    """Let torch use as many threads as the starter says in OMP_NUM_THREADS; returns their number."""
    import torch

    threads = int(os.environ["OMP_NUM_THREADS"])
    torch.set_num_threads(threads)
    return threads
