"""What `align check` says of the tasks of `evaluation:`: names, roles, packages, margins, rows. Reads no model and no lm-eval."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from alignment import gold
from alignment.core.errors import RecipeError
from eval.config import ROLES, Comparison, Evaluation, Task, TextTask
from eval.local_rows import chosen, read_documents
from eval.task_config import LocalTask, PairsTask, Variant, split_variant
from eval.task_files import TaskFile, find, require_usable
from recipes.check_rows import CheckedData, check_rows, checked

_TASK_ROWS = {"bits_per_byte": (("text",), ("prompt", "completion")), "gold": (("prompt",),)}


def check_tasks(block: Evaluation, comparison: Comparison) -> list[CheckedData]:
    """Raises the first RecipeError or DataError."""
    found = [data for name, task in block.tasks.items() for data in _check_own(name, task, block)]
    _check_roles(block)
    named: set[tuple[str, Variant]] = set()
    for role in ROLES:
        where = f"evaluation.{role}"
        for name in getattr(block, role):
            base, variant = split_variant(name)
            tasks = [base] if base in block.tasks else _check_files(base, where, block, comparison)
            for task in tasks:
                if (task, variant) in named:
                    raise RecipeError(where, f"task {task!r} comes twice", "each task once", f"drop {name!r}")
                named.add((task, variant))
    return found


def _check_files(name: str, where: str, block: Evaluation, comparison: Comparison) -> list[str]:
    files = find(name, where, list(block.tasks))
    require_usable(files, block.run_generated_code, where)
    for file in files:
        _require_margin(file, where, comparison)
    return [file.name for file in files]


def _require_margin(file: TaskFile, where: str, comparison: Comparison) -> None:
    if comparison.margin_of(file.metric) is None:
        raise RecipeError(
            f"{where}: {file.name}",
            f"is judged by {file.metric}, for which there is no margin",
            "the loss of it that counts as none",
            f"set comparison.margin.{file.metric}, for example {{{file.metric}: 0.05}}",
        )


def _check_own(name: str, task: Task, block: Evaluation) -> Iterator[CheckedData]:
    where = f"evaluation.tasks.{name}"
    variants = [split_variant(other)[1] for other in block.task_names() if split_variant(other)[0] == name]
    asked = not (isinstance(task, PairsTask) or task.metric == "bits_per_byte")
    if any(variants) and not asked:
        what = f"task {name!r} asks no question: it has no formats and no examples"
        raise RecipeError(where, what, "its plain name", f"name it {name}")
    if not isinstance(task, TextTask):
        shots = [block.fewshot if variant.shots is None else variant.shots for variant in variants] if asked else []
        yield from _check_local(task, max((number or 0 for number in shots), default=0), where)
        return
    if task.metric == "gold" and task.gold not in gold.NAMES:
        raise RecipeError(
            f"{where}.gold", f"no gold scorer {task.gold!r}", f"one of {', '.join(gold.NAMES)}", "name one"
        )
    if task.data.stage is None:
        yield check_rows(task.data, _TASK_ROWS[task.metric], f"{where}.data")


def _check_local(task: LocalTask, shots: int, where: str) -> Iterator[CheckedData]:
    """Every row makes a document; examples can be shown without showing a question's own answer."""
    left = None
    for field, data in (("data", task.data), ("examples", task.examples)):
        if data is None or data.stage is not None:
            continue
        if data.hub is not None:
            yield checked(data, 0, f"{where}.{field}")
            continue
        rows, left_out = read_documents(task, data, None, f"{where}.{field}")
        left = len(rows if field == "examples" else chosen(task, rows)[1])
        found = checked(data, len(rows), f"{where}.{field}")
        yield replace(found, source=f"{found.source} ({left_out} rows left out)") if left_out else found
    if shots and left is not None and left <= shots:
        what = f"{shots} examples to show, {left} there are beside the questions"
        raise RecipeError(f"{where}.examples", what, f"more than {shots}", "name rows for them, or set a limit")


def _check_roles(block: Evaluation) -> None:
    """Each task has one role, and each of the recipe's own tasks has one at all."""
    names = block.task_names()
    if not names:
        raise RecipeError(
            "evaluation", "no tasks", "names under `target:`, `retained:` or `extra:`", "name what is to be measured"
        )
    for name in names:
        if names.count(name) > 1:
            raise RecipeError("evaluation", f"task {name!r} is named twice", "each task once, in one role", "drop one")
    for name in block.tasks:
        if name not in {split_variant(other)[0] for other in names}:
            what = f"task {name!r} is declared but not measured"
            raise RecipeError(
                f"evaluation.tasks.{name}", what, "its name under `target:`, `retained:` or `extra:`", "name it there"
            )
