"""What `align check` says of `comparison.sequences` and `comparison.relearning`: do these stages answer the question at all?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from alignment.core.config import DuringTraining
from alignment.core.errors import RecipeError
from eval.config import ROLES, Evaluation, Relearning
from recipes.schema import Recipe


def check_sequences(recipe: Recipe, block: Evaluation) -> None:
    """Stages are evaluated, each goes on from the one before it, tasks are measured. Raises RecipeError."""
    tasks_of: dict[str, set[str]] = {}
    for index, sequence in enumerate(recipe.comparison.sequences):
        where = f"comparison.sequences.{index}"
        _require_evaluated([sequence.base, *sequence.stages], block, where)
        _require_measured(list(sequence.stages.values()), block, where)
        require_chain(sequence.base, list(sequence.stages), recipe, f"{where}.stages")
        tasks = tasks_of.setdefault(sequence.method, set(sequence.stages.values()))
        if tasks != set(sequence.stages.values()):
            raise RecipeError(
                f"{where}.method",
                f"sequences of {sequence.method!r} teach different tasks",
                f"orders of {', '.join(sorted(tasks))}",
                "give this sequence a method of its own",
            )


def check_relearning(recipe: Recipe, block: Evaluation) -> None:
    """Both stages train alike and are watched while they do. Raises RecipeError."""
    for index, probe in enumerate(recipe.comparison.relearning):
        where = f"comparison.relearning.{index}"
        _require_evaluated([probe.lost, probe.never], block, where)
        _require_measured([probe.task], block, where)
        for stage in (probe.lost, probe.never):
            _require_evaluated(_ancestors(stage, recipe)[:1], block, where)  # where the curve starts
            _require_watched(stage, probe, recipe, block, where)
        left, right = (
            recipe.stages[stage].model_dump(exclude={"model", "runtime"}) for stage in (probe.lost, probe.never)
        )
        if differing := [key for key in left if left[key] != right.get(key)]:
            raise RecipeError(
                where,
                f"{probe.lost!r} and {probe.never!r} are not trained alike: {', '.join(differing)} differ",
                "two stages that differ in the model they start from only",
                "make their settings equal, for example with a YAML anchor",
            )


def _require_evaluated(stages: Sequence[str], block: Evaluation, where: str) -> None:
    for stage in stages:
        if stage not in block.models:
            raise RecipeError(
                where,
                f"{stage!r} is not among the evaluated models",
                f"one of {', '.join(block.models)}",
                "add it to evaluation.models or correct the name",
            )


def _require_measured(tasks: Sequence[str], block: Evaluation, where: str) -> None:
    known = block.task_names()
    for task in tasks:
        if task not in known:
            raise RecipeError(
                where,
                f"task {task!r} is not measured",
                f"one of {', '.join(known)}",
                "name it under evaluation.target, or correct the name",
            )


def require_chain(base: str, stages: Sequence[str], recipe: Recipe, where: str) -> None:
    """Each stage trains the model of the one before it, the first that of the base; others may lie between."""
    for before, stage in zip([base, *stages], stages, strict=False):
        met = next((name for name in _ancestors(stage, recipe) if name in {base, *stages}), None)
        if met != before:
            raise RecipeError(
                where,
                f"{stage!r} does not go on from {before!r}" + (f" but from {met!r}" if met else ""),
                "stages in the order of training, each starting from the one before it",
                "correct the order, or the stage's `model:`",
            )


def _require_watched(stage: str, probe: Relearning, recipe: Recipe, block: Evaluation, where: str) -> None:
    watch: DuringTraining | None = getattr(recipe.stages[stage], "evaluate", None)
    role = next(role for role in ROLES if probe.task in getattr(block, role))
    if watch is None or (watch.tasks is not None and not {probe.task, role} & set(watch.tasks)):
        raise RecipeError(
            where,
            f"{stage!r} is not measured on {probe.task!r} while it is trained",
            "a curve of both stages",
            f"give stages.{stage} the line `evaluate: {{every: 10, tasks: [{probe.task}]}}`",
        )
    if watch.limit is not None or watch.best is not None:
        raise RecipeError(
            f"stages.{stage}.evaluate",
            "limit or best is set",
            "a curve on all items, which goes on to the end",
            "drop both for a stage of comparison.relearning",
        )


def _ancestors(stage: str, recipe: Recipe) -> list[str]:
    return list(_starts_from(stage, recipe))


def _starts_from(stage: str, recipe: Recipe) -> Iterator[str]:
    """The stage whose model it starts from, the one before that, ...; a circle is the plan's to report."""
    seen = {stage}
    while (model := getattr(recipe.stages.get(stage), "model", None)) is not None and model.stage not in (None, *seen):
        stage = model.stage
        seen.add(stage)
        yield stage
