"""evalstats 0.3.3, the best public package for paired differences with repeated runs, called as it documents.

It is installed into a folder of its own, without its dependencies: the environment keeps its packages.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.statistics.methods import REPLICATES, Method
from benchmarks.statistics.simulate import Answers
from eval.statistics import Interval

VERSION = "0.3.3"
FOLDER = Path(__file__).parent / "cache" / f"evalstats-{VERSION}"


def fetch_peer() -> bool:
    """Installs evalstats beside the environment, once. False where no package index offers it."""
    if not FOLDER.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(FOLDER)]
        return subprocess.run([*command, f"evalstats=={VERSION}"], check=False).returncode == 0
    return True


def _interval(method: Literal["auto", "mj_floor"], tasks: Sequence[Answers], rng: np.random.Generator) -> Interval:
    """Its own 95 % interval for one task's difference, of items with one run a seed; clusters are unknown to it."""
    [task] = tasks
    scores = np.stack([np.broadcast_to(side, task.new.shape).T for side in (task.new, task.reference)])
    scores = scores[..., 0] if scores.shape[-1] == 1 else scores  # [arm, item] or [arm, item, run]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = _pairwise_differences()(scores, 0, 1, method=method, n_bootstrap=REPLICATES, rng=rng)
    return float(found.ci_low), float(found.ci_high)


@cache
def _pairwise_differences() -> Callable:
    sys.path.append(str(FOLDER))  # behind the environment's own packages
    return importlib.import_module("evalstats.core.paired").pairwise_differences


DEFAULT = "evalstats"  # its automatic choice: a bootstrap, of runs nested in items
SCORE = (
    "evalstats mj_floor"  # what its `compare()` takes for 0/1 scores: a score interval with items as clusters of runs
)
PEER: dict[str, Method] = {DEFAULT: partial(_interval, "auto"), SCORE: partial(_interval, "mj_floor")}
