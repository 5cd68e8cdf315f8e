"""Do a classifier's training rows, its validation rows and the tasks it is measured on speak of the same labels?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from alignment.core.errors import DataError, RecipeError
from eval.config import ROLES, EvaluateConfig, Evaluation
from eval.task_config import LabelsTask, split_variant
from recipes.check_rows import CheckedData
from recipes.measuring import measuring_of
from recipes.schema import Recipe

_SHOWN = 8


def check_labels(recipe: Recipe, data: Sequence[CheckedData]) -> None:
    """Raises DataError for rows, RecipeError for tasks. Rows on the hub and those that a stage makes are left to the stage."""
    known = {each.where: each.labels for each in data if each.labels and not each.more}
    for name, config in recipe.stages.items():
        labels = known.get(f"stages.{name}.data")
        if config.kind != "classify" or labels is None:
            continue
        if len(labels) < 2:
            what = f"all rows have the label {next(iter(labels))!r}"
            raise DataError(f"stages.{name}.data", what, "at least two labels", "use rows of every label")
        where = f"stages.{name}.validation"
        if unknown := known.get(where, labels) - labels:
            what = f"labels that no training row has: {_listed(unknown)}"
            raise DataError(
                where,
                what,
                _listed(labels),
                "use rows with the same labels, spelled alike; numbers are named by `values`",
            )
        for task, of_task in _tasks(recipe, name):
            if of_task != labels:
                what = f"its labels are {_listed(of_task)}, those that stage {name!r} learns {_listed(labels)}"
                remedy = "correct the task's `labels`, or those of the rows (numbers are named by `values`)"
                raise RecipeError(f"evaluation.tasks.{task}.labels", what, "the same names", remedy)


def _tasks(recipe: Recipe, name: str) -> Iterator[tuple[str, frozenset[str]]]:
    """What the classifier of that stage is measured on, in the end and along its training."""
    in_the_end = recipe.evaluation if recipe.evaluation and name in recipe.evaluation.models else None
    blocks: tuple[Evaluation | EvaluateConfig | None, ...] = (in_the_end, measuring_of(recipe, name))
    for block in filter(None, blocks):
        for measured in (each for role in ROLES for each in getattr(block, role)):
            base, _ = split_variant(measured)
            if isinstance(task := block.tasks.get(base), LabelsTask):
                yield base, frozenset(task.labels)


def _listed(labels: frozenset[str]) -> str:
    more = f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else ""
    return ", ".join(sorted(labels)[:_SHOWN]) + more
