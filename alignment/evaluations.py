"""Measuring a model while it is trained: on a copy of its weights, saved as the finished model would be.

A point along training is then what one would have got by stopping there, measured as finished models are. Training's weights,
modes and random states are not touched.

    <cell>/evaluations/step-000050/      what the measuring leaves: items and values
    <cell>/scratch/best-000050/          the best model so far, if the recipe keeps it
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from alignment.core.config import EVALUATIONS, DuringTraining
from alignment.core.context import Context
from alignment.core.errors import RecipeError
from alignment.parallel import ALONE, World
from alignment.random_states import unchanged_random_states

VALUES = "evaluation.json"  # written last in its folder, with an entry for each task under `tasks`
Entries = Mapping[str, Mapping[str, Any]]


class Evaluations:
    """Those of one training. done: steps that lie behind a resumed one; what was measured after them is forgotten."""

    def __init__(self, config: DuringTraining | None, context: Context, done: int, world: World = ALONE) -> None:
        self._config, self._context, self._world = config, context, world
        self._best: tuple[int, float] | None = None  # step and score
        self._since_best = 0
        if config is not None and world.main:
            self._recall(done)
        self._best, self._since_best = world.broadcast((self._best, self._since_best))

    @property
    def stopped(self) -> bool:
        """Whether nothing better came for as long as the recipe waits; so from the start, where a run was killed right after that."""
        return (
            self._config is not None and self._config.patience is not None and self._since_best >= self._config.patience
        )

    def after(self, step: int, steps: int, save: Callable[[Path], None]) -> bool:
        """Measure, if that is due after `step` of `steps`, and say whether training should stop. All processes call it.

        save(folder) writes the model as it is now, in Hugging Face format, and leaves it as it was.
        """
        config = self._config
        if config is None or not (config.due(step) if step < steps else config.best is not None):
            return False
        model = self._context.scratch / "snapshot"
        stop = False
        with unchanged_random_states():
            if self._world.main:
                shutil.rmtree(model, ignore_errors=True)
            self._world.barrier()
            save(model)
            if self._world.main:
                stop = self._measure(step, model)
        return self._world.broadcast(stop)

    def finish(self, save: Callable[[Path], None]) -> dict[str, int]:
        """Leave the cell's model in its work folder: the best one, or the present one. Returns `best_step`, if there is one."""
        if self._world.broadcast(self._best is None):
            save(self._context.workdir)
            return {}
        if self._world.main:
            assert self._best is not None
            self._context.log.info(f"keeping the weights of step {self._best[0]}, the best that were measured")
            shutil.copytree(self._folder(self._best[0]), self._context.workdir, dirs_exist_ok=True)
        self._world.barrier()
        return {"best_step": self._best[0]} if self._best is not None else {}

    def _measure(self, step: int, model: Path) -> bool:
        assert self._config is not None and self._context.measure is not None, (
            "the runner handed in nothing to measure with"
        )
        folder = self._context.workdir / EVALUATIONS / f"step-{step:06d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        entries = self._context.measure(model, folder)
        self._context.log.metrics(step, {f"evaluation/{task}": entry["value"] for task, entry in entries.items()})
        if self._config.best is None:
            return False
        before = self._best
        better = self._judge(step, score(entries, self._config.best))
        if better:
            shutil.rmtree(self._folder(step), ignore_errors=True)
            model.rename(self._folder(step))
            self._forget_all_but(step, before)
        return self.stopped

    def _judge(self, step: int, value: float) -> bool:
        """Whether this is a new best."""
        better = self._best is None or value > self._best[1]
        self._best, self._since_best = ((step, value), 0) if better else (self._best, self._since_best + 1)
        return better

    def _forget_all_but(self, step: int, before: tuple[int, float] | None) -> None:
        """The best and the one before it stay: a run that resumes from before the last of them goes on with the other."""
        kept = {self._folder(step), *([self._folder(before[0])] if before else [])}
        for folder in set(self._context.scratch.glob("best-*")) - kept:
            shutil.rmtree(folder)

    def _recall(self, done: int) -> None:
        assert self._config is not None
        for folder in self._context.scratch.glob("best-*"):
            if _step_of(folder) > done:  # of a run that was killed there, and is now made again
                shutil.rmtree(folder)
        for folder in sorted((self._context.workdir / EVALUATIONS).glob("step-*")):
            step = _step_of(folder)
            if step > done or not (folder / VALUES).is_file():
                shutil.rmtree(folder)
                continue
            if self._config.best is None:
                continue
            entries = json.loads((folder / VALUES).read_text())["tasks"]
            value = score(entries, self._config.best)
            if self._folder(step).is_dir() or (self._best is not None and value <= self._best[1]):
                self._judge(step, value)

    def _folder(self, step: int) -> Path:
        return self._context.scratch / f"best-{step:06d}"


class EvaluateCallback(TrainerCallback):
    """After a step of a Hugging Face trainer, before its checkpoint: a run that resumes there has this measurement behind it.

    per_step: how many of the trainer's steps are one of the recipe's.
    """

    def __init__(self, evaluations: Evaluations, save: Callable[[Path], None], per_step: int = 1) -> None:
        self._evaluations, self._save, self._per_step = evaluations, save, per_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step, rest = divmod(state.global_step, self._per_step)
        if not rest:
            control.should_training_stop |= self._evaluations.after(step, state.max_steps // self._per_step, self._save)


def score(entries: Entries, wanted: str) -> float:
    """What `best` compares: the value of one task, or the mean over the tasks of a role; turned so that higher is better.

    Raises RecipeError for a name that was not measured, or a role whose tasks count in opposite directions.
    """
    chosen = [entry for task, entry in entries.items() if wanted in (task, entry["role"])]
    if not chosen:
        known = [*entries, *dict.fromkeys(entry["role"] for entry in entries.values())]
        raise RecipeError("evaluate.best", f"{wanted!r} was not measured", f"one of {', '.join(known)}", "correct it")
    if len({entry["higher_is_better"] for entry in chosen}) > 1:
        what = f"higher is better for some {wanted} tasks and worse for others"
        raise RecipeError("evaluate.best", what, "one task, or tasks that point one way", "name one of the tasks")
    sign = 1 if chosen[0]["higher_is_better"] else -1
    return sign * math.fsum(entry["value"] for entry in chosen) / len(chosen)


def _step_of(folder: Path) -> int:
    return int(folder.name.split("-")[1])
