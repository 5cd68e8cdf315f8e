"""`align check`: everything that can be found wrong before a model is loaded. No torch, transformers or datasets."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from alignment import gold
from alignment.core.config import DataRef
from alignment.core.errors import DataError, RecipeError
from alignment.data.rows import load_rows
from alignment.tracking import require_installed
from eval.config import Evaluation
from recipes.references import references
from recipes.schema import Recipe
from recipes.stages import KINDS

TASKS = Path(__file__).parent.parent / "eval" / "tasks"
_TASK_ROWS = {"bits_per_byte": (("text",),), "gold": (("prompt",),)}


@dataclass(frozen=True)
class CheckedData:
    where: str
    source: str
    rows: int


def check_recipe(recipe: Recipe) -> list[CheckedData]:
    """Check data rows, task names and contrasts. Raises the first RecipeError or DataError."""
    checked = []
    for name, config in recipe.stages.items():
        require_installed(config.runtime.trackers, f"stages.{name}.runtime.trackers")
        for role, reference in references(config):
            if isinstance(reference, DataRef) and reference.stage is None:
                alternatives = KINDS[config.kind].fields.get(role, ((),))
                checked.append(_check_rows(reference, alternatives, f"stages.{name}.{role}"))
    if recipe.evaluation:
        checked += _check_evaluation(recipe.evaluation)
        _check_contrasts(recipe, recipe.evaluation)
    return checked


def _check_evaluation(block: Evaluation) -> list[CheckedData]:
    checked = []
    for name, task in block.tasks.items():
        where = f"evaluation.tasks.{name}"
        if task.metric == "gold" and task.gold not in gold.NAMES:
            raise RecipeError(
                f"{where}.gold", f"no gold scorer {task.gold!r}", f"one of {', '.join(gold.NAMES)}", "name one"
            )
        if task.data.stage is None:
            checked.append(_check_rows(task.data, _TASK_ROWS[task.metric], f"{where}.data"))
    _check_roles(block)
    for role in ("target", "retained"):
        for name in getattr(block, role):
            known = own_task_names() | set(block.tasks)
            if name.endswith((".yaml", ".yml")):
                continue  # a task file of the user's own: the plan has found and read it
            if name not in known and name not in harness_task_names():
                close = difflib.get_close_matches(name, known, n=1)
                remedy = f"did you mean {close[0]}?" if close else f"tasks of this suite: {', '.join(sorted(known))}"
                raise RecipeError(
                    f"evaluation.{role}: {name}",
                    "no such task",
                    "a task of this recipe, of eval/tasks or of lm-eval",
                    remedy,
                )
    return checked


def _check_roles(block: Evaluation) -> None:
    """Each task has one role, and each of the recipe's own tasks has one at all."""
    names = [*block.target, *block.retained]
    if not names:
        raise RecipeError(
            "evaluation", "no tasks", "names under `target:` or `retained:`", "name what is to be measured"
        )
    for name in names:
        if names.count(name) > 1:
            raise RecipeError("evaluation", f"task {name!r} is named twice", "each task once, in one role", "drop one")
    for name in block.tasks:
        if name not in names:
            what = f"task {name!r} is declared but not measured"
            raise RecipeError(
                f"evaluation.tasks.{name}", what, "its name under `target:` or `retained:`", "name it there"
            )


def _check_contrasts(recipe: Recipe, block: Evaluation) -> None:
    for index, pair in enumerate(recipe.comparison.contrasts):
        if pair[0] == pair[1]:
            where = f"comparison.contrasts.{index}"
            raise RecipeError(where, f"{pair[0]!r} against itself", "two different models", "correct one of them")
        for name in pair:
            if name not in block.models:
                raise RecipeError(
                    f"comparison.contrasts.{index}", f"{name!r} is not among the evaluated models",
                    f"one of {', '.join(block.models)}", "add it to evaluation.models or correct the name",
                )  # fmt: skip


def _check_rows(reference: DataRef, alternatives: tuple[tuple[str, ...], ...], where: str) -> CheckedData:
    """Rows hold the fields of the first alternative that fits the first row."""
    if reference.hub is not None:  # reading it needs the datasets library; the stage that uses it checks its rows
        return CheckedData(where, f"hub:{reference.hub}", 0)
    first = load_rows(reference, where=where)[0]
    fitting = [fields for fields in alternatives if all(name in first for name in fields)]
    if not fitting:
        expected = " or ".join(" + ".join(fields) for fields in alternatives)
        raise DataError(
            where, f"{reference.path or reference.lab}: rows hold {', '.join(first)}", expected, "rename the fields"
        )
    rows = load_rows(reference, fields=fitting[0], where=where)
    return CheckedData(where, f"lab:{reference.lab}" if reference.lab else str(reference.path), len(rows))


@cache
def own_task_names() -> frozenset[str]:
    """Tasks and groups under eval/tasks."""
    return frozenset(_names_in(TASKS))


@cache
def harness_task_names() -> frozenset[str]:
    """Tasks and groups that lm-eval ships, read from its files: its own index takes 17 s, this about one."""
    import importlib.util

    spec = importlib.util.find_spec("lm_eval")
    if spec is None or spec.origin is None:
        return frozenset()
    return frozenset(_names_in(Path(spec.origin).parent / "tasks"))


def _names_in(folder: Path) -> set[str]:
    names = set()
    for path in folder.rglob("*.yaml"):
        for line in path.read_text(errors="replace").splitlines():
            key, colon, value = line.partition(":")
            if colon and key in ("task", "group") and value.strip():
                names.add(str(yaml.safe_load(value)))
    return names
