"""What the items of a recipe's evaluation tasks say: training data must not know them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from alignment.core.errors import RecipeError
from alignment.data.formats import AS_THEY_ARE
from alignment.data.inspection import RUN
from alignment.data.rows import load_rows
from eval.catalogue import find_tasks
from eval.config import ROLES, EvaluateConfig, Task
from eval.harness import quiet
from eval.local_rows import columns_of
from eval.task_config import base_name
from recipes.references import references
from recipes.schema import load_recipe


class TaskTexts(NamedTuple):
    """texts: of all items. left_out: tasks that could not be read, and why."""

    texts: list[str]
    left_out: dict[str, str]


def task_texts(recipe: str) -> TaskTexts:
    """Of every task that the recipe measures, but those whose rows a stage of it makes. Raises RecipeError."""
    parsed, _ = load_recipe(recipe)
    block = parsed.evaluation
    if block is None:
        raise RecipeError(recipe, "no `evaluation:`", "a recipe that measures something", "name another")
    made = {name for name, task in block.tasks.items() if any(ref.stage for _, ref in references(task))}
    named = dict.fromkeys(base_name(name) for role in ROLES for name in getattr(block, role))
    wanted = [name for name in named if name not in made]
    own = {name: task for name, task in block.tasks.items() if name in wanted}
    config = EvaluateConfig.model_validate({"model": {"path": "none"}, "target": wanted, "tasks": own})
    with quiet():
        measured = find_tasks(config, {}) if wanted else []
        texts = [text for each in measured for text in _items(each.task)]
    texts += [text for task in own.values() for text in _columns(task)]
    return TaskTexts(texts, dict.fromkeys(sorted(made), "a stage makes its rows"))


def _items(task: Any) -> Iterator[str]:
    """Of each item the question, the question with its answer, and whatever else it holds, but for choices and single words."""
    for doc in task.test_docs() if task.has_test_docs() else task.validation_docs():
        question, answer = task.doc_to_text(doc), task.doc_to_target(doc)
        yield from _texts(question)
        if isinstance(question, str) and isinstance(answer, str):
            yield f"{question} {answer}"
        yield from (text for text in _texts(doc) if len(text.split()) >= RUN)
        if isinstance(doc, dict):  # a short text counts where it is a column of its own: choices are listed
            yield from (value for value in doc.values() if isinstance(value, str) and " " in value.strip())


def _columns(task: Task) -> Iterator[str]:
    """What the prompt of a task of local rows is filled from: a short text is not found amid the words of its template."""
    named = columns_of(getattr(task, "prompt", ""))
    if not named:
        return
    for row in load_rows(task.data.model_copy(update={"format": AS_THEY_ARE}), None, where="--tasks-of"):
        yield from (text for name in named if isinstance(text := row.get(name), str) and " " in text.strip())


def _texts(value: Any) -> Iterator[str]:
    """Every text in an item."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inside in value.values():
            yield from _texts(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from _texts(inside)
