"""From the names in a recipe to lm-eval's task objects: our own files, a recipe's `tasks:` block, a YAML path, or lm-eval's own."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lm_eval.tasks import TaskManager

from alignment.core.artifact import Artifact
from alignment.core.errors import DataError, RecipeError
from alignment.data.rows import existing_path
from eval.config import EvaluateConfig, Role
from eval.text_tasks import text_task

FOLDER = Path(__file__).parent / "tasks"
_PREFERRED = ("acc", "exact_match", "gold", "bits_per_byte")


@dataclass(frozen=True)
class MeasuredTask:
    """An lm-eval task and its role. metric: the one it is judged by: the first it declares of accuracy, exact match, gold,
    bits per byte, else its first. filter: the first it declares. `metadata` of a task file says the rest."""

    task: Any
    role: Role

    @property
    def name(self) -> str:
        return self.task.task_name

    @property
    def metadata(self) -> dict[str, Any]:
        return self.task.get_config("metadata") or {}

    @property
    def chat(self) -> bool:
        return self.metadata.get("format", "plain") == "chat"

    @property
    def metric(self) -> str:
        declared = list(self.task.higher_is_better())
        return next((metric for metric in _PREFERRED if metric in declared), declared[0])

    @property
    def filter(self) -> str:
        return self.task._filters[0].name

    @property
    def sampled(self) -> bool:
        return bool(self.decoding.get("do_sample", False))

    @property
    def new_tokens(self) -> int:
        """The most tokens of an answer; 0 where nothing is generated. 256 is lm-eval's default."""
        return self.decoding.get("max_gen_toks", 256) if self.task.OUTPUT_TYPE == "generate_until" else 0

    @property
    def decoding(self) -> dict[str, Any]:
        """How answers are generated, in lm-eval's words."""
        return self.task.get_config("generation_kwargs") or {}


def find_tasks(config: EvaluateConfig, inputs: Mapping[str, Artifact]) -> list[MeasuredTask]:
    """The recipe's tasks in its order, targets first; a group stands for its members.

    Raises RecipeError for an unknown or repeated name, DataError where a task's data cannot be had.
    """
    found: dict[str, MeasuredTask] = {}
    roles: list[tuple[Role, list[str]]] = [("target", config.target), ("retained", config.retained)]
    for role, names in roles:
        for name in names:
            for task in _load(name, config, inputs, f"evaluation.{role}"):
                if task.task_name in found:
                    raise RecipeError(
                        f"evaluation.{role}", f"task {task.task_name!r} comes twice", "each task once", f"drop {name!r}"
                    )
                found[task.task_name] = MeasuredTask(task, role)
    if not found:
        raise RecipeError("evaluation", "no tasks", "names under `target:` or `retained:`", "name a task")
    return list(found.values())


def _load(name: str, config: EvaluateConfig, inputs: Mapping[str, Artifact], where: str) -> list[Any]:
    if name in config.tasks:
        return [text_task(name, config.tasks[name], inputs.get(f"tasks.{name}.data"))]
    manager, spec = _own_tasks(), name
    if name.endswith((".yaml", ".yml")):
        spec = str(existing_path(name, where))
    elif name not in manager.task_index:
        manager = _all_tasks()
        if name not in manager.task_index:
            raise _unknown(name, [*config.tasks, *manager.all_tasks], where)
    try:
        return list(manager.load([spec])["tasks"].values())
    except (FileNotFoundError, ConnectionError, OSError) as error:
        raise DataError(
            where,
            f"the data of task {name!r} cannot be had: {str(error).splitlines()[0]}",
            "data that lm-eval can load",
            "check the network, or the files that the task names",
        ) from None


@cache
def _own_tasks() -> TaskManager:
    return TaskManager(include_path=str(FOLDER), include_defaults=False)


@cache
def _all_tasks() -> TaskManager:
    """lm-eval's own 14,000 task files too, which takes some 17 seconds: only where a recipe names one of them."""
    return TaskManager(include_path=str(FOLDER))


def _unknown(name: str, known: list[str], where: str) -> RecipeError:
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.6)
    return RecipeError(
        where,
        f"no task is called {name!r}",
        f"one of {', '.join(near)}" if near else "a task of eval/tasks, of this recipe's `tasks:`, or of lm-eval",
        "correct the name, or give the path of a task file (.yaml)",
    )
