"""A stage of kind `count` that several processes carry out: just enough to see how they are launched, watched and resumed.

Each step adds rank + 1 over all ranks. `register()` makes the kind known; the tests call it in every process that runs.
"""

from __future__ import annotations

import time
from typing import Literal

from alignment.core.config import StageConfig
from alignment.core.errors import RecipeError
from alignment.core.store import write_atomically
from recipes.stages import KINDS, StageKind


class CountConfig(StageConfig):
    kind: Literal["count"] = "count"
    steps: int = 3
    seconds: float = 0.0
    mistake: bool = False


def run(config, inputs, context):
    import torch

    from alignment.parallel import world

    here = world()
    saved = context.scratch / "saved.txt"
    here.barrier()
    first, total = map(int, saved.read_text().split()) if saved.exists() else (0, 0)
    here.barrier()
    context.log.info(f"rank {here.rank} of {here.size} starts at step {first} with {torch.get_num_threads()} thread(s)")
    for step in range(first, config.steps):
        if config.mistake and here.rank == 1:
            raise RecipeError("count.steps", "rank 1 found a mistake", "none", "mend it")
        added = torch.tensor(here.rank + 1)
        here.sum_([added])
        total += int(added)
        context.log.metrics(step + 1, {"total": total})
        context.progress.update(step + 1, config.steps, "count")
        if here.main:
            write_atomically(saved, f"{step + 1} {total}")
        time.sleep(config.seconds)
    if here.main:
        (context.workdir / "total.txt").write_text(str(total))
    return {"total": total, "first": first}


def register():
    KINDS["count"] = StageKind("counting_stage:CountConfig", "counting_stage:run", "dataset", 1, (), 1, {}, True)
