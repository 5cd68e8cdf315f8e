"""From the names in a recipe to lm-eval's task objects: our own files, a recipe's `tasks:` block, a YAML path, or lm-eval's own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from statistics import fmean
from typing import Any

from lm_eval.filters import build_filter_ensemble
from lm_eval.tasks import TaskManager

from alignment.core.artifact import Artifact
from alignment.core.errors import DataError, RecipeError
from alignment.data.reading import existing_path
from eval.config import ROLES, EvaluateConfig, Role, TextTask
from eval.local_tasks import local_task
from eval.task_config import AS_IT_IS, Variant, split_variant
from eval.task_files import FOLDER, TaskFile, find, group_name, judged_metric, require_usable
from eval.text_tasks import MessagesTask, text_task

_LM_EVALS_CODE_SWITCH = "HF_ALLOW_CODE_EVAL"  # without it the `evaluate` library refuses to run programs


@dataclass(frozen=True)
class MeasuredTask:
    """An lm-eval task, its role, and how it is asked.

    shots: examples shown before each question. samples: answers to each prompt. declared: what a suite's file says of the
    task, beside its own `metadata`. pool: the group whose one score it is a part of.
    """

    task: Any
    role: Role
    variant: Variant = AS_IT_IS
    shots: int = 0
    samples: int = 1
    declared: Mapping[str, Any] = field(default_factory=dict)
    pool: str | None = None

    @property
    def name(self) -> str:
        """The task's name in the results: with `@chat` or `@plain` where that is not its own format, and `@3shot` if so named."""
        format_ = f"@{self.variant.format}" if self.chat != self._own_chat else ""
        shots = "" if self.variant.shots is None else f"@{self.variant.shots}shot"
        return f"{self.pool or self.task.task_name}{format_}{shots}"

    @property
    def metadata(self) -> dict[str, Any]:
        return {**(self.task.get_config("metadata") or {}), **self.declared}

    @property
    def chat(self) -> bool:
        return self._own_chat if self.variant.format is None else self.variant.format == "chat"

    @property
    def _own_chat(self) -> bool:
        return self.metadata.get("format", "plain") == "chat"

    @property
    def metric(self) -> str:
        """The one that the task is judged by (eval/task_files.py)."""
        listed = self.task.get_config("metric_list") or []
        return judged_metric(
            list(self.task.higher_is_better()), {"pass_at_k": next((m.get("k") for m in listed), None)}
        )

    @property
    def filter(self) -> str:
        """The first it declares."""
        return self.task._filters[0].name

    @property
    def sampled(self) -> bool:
        return bool(self.decoding.get("do_sample", False))

    @property
    def asks(self) -> bool:
        """Is there a question, which can be put in another format and have examples before it?"""
        return self.metric != "bits_per_byte" and self.task.get_config("doc_to_text") != ""

    @property
    def scores_choices(self) -> bool:
        """Multiple choice of which lm-eval itself knows the one right answer; a task's own scoring may count several."""
        return self.task.OUTPUT_TYPE == "multiple_choice" and self.task.get_config("process_results") is None

    @property
    def labels(self) -> list[str]:
        """Those of a classification task; none for other tasks."""
        return self.metadata.get("labels") or []

    @property
    def new_tokens(self) -> int:
        """The most tokens of an answer; 0 where nothing is generated. 256 is lm-eval's default."""
        return self.decoding.get("max_gen_toks", 256) if self.task.OUTPUT_TYPE == "generate_until" else 0

    @property
    def decoding(self) -> dict[str, Any]:
        """How answers are generated, in lm-eval's words."""
        return self.task.get_config("generation_kwargs") or {}

    def limit(self, everywhere: int | None) -> int | None:
        """The smaller of the evaluation's limit and its own."""
        limits = [limit for limit in (everywhere, self.metadata.get("limit")) if limit is not None]
        return min(limits, default=None)


def find_tasks(config: EvaluateConfig, inputs: Mapping[str, Artifact]) -> list[MeasuredTask]:
    """The recipe's tasks in its order, targets first; a group stands for its members. With `formats`, a retained task is
    followed by itself in the other formats, in the role `extra`.

    Raises RecipeError for an unknown or repeated name and for what a task cannot be asked, DataError where data is missing.
    """
    found: dict[tuple[str, str], MeasuredTask] = {}
    for role in ROLES:
        where = f"evaluation.{role}"
        for name in getattr(config, role):
            for measured in _named(name, role, config, inputs, where):
                key = (measured.name, measured.task.task_name)
                if key in found:
                    raise RecipeError(where, f"task {measured.name!r} comes twice", "each task once", f"drop {name!r}")
                found[key] = measured
    if not found:
        raise RecipeError("evaluation", "no tasks", "names under `target:` or `retained:`", "name a task")
    return list(found.values())


def _named(
    name: str, role: Role, config: EvaluateConfig, inputs: Mapping[str, Artifact], where: str
) -> Iterator[MeasuredTask]:
    base, variant = split_variant(name)
    for loaded in _load(base, role, config, inputs, where):
        measured = replace(loaded, variant=variant)
        _require_possible(measured, where)
        measured = replace(measured, shots=_shots(measured, config, where), samples=_repeat(measured, config))
        yield measured
        if role != "retained" or variant.format is not None or not measured.asks:
            continue
        for format_ in config.formats:
            other = replace(measured, role="extra", variant=replace(variant, format=format_))
            if other.chat != measured.chat and _can_be(other):
                yield other


def _load(
    name: str, role: Role, config: EvaluateConfig, inputs: Mapping[str, Artifact], where: str
) -> list[MeasuredTask]:
    if name in config.tasks:
        task = config.tasks[name]
        made = (
            text_task(name, task, inputs.get(f"tasks.{name}.data"))
            if isinstance(task, TextTask)
            else local_task(name, task, inputs)
        )
        return [MeasuredTask(made, role)]
    files = {file.name: file for file in find(name, where, list(config.tasks))}
    require_usable(list(files.values()), config.run_generated_code, where)
    if any(file.runs_generated_code for file in files.values()):
        os.environ[_LM_EVALS_CODE_SWITCH] = "1"
    try:
        loaded = _manager(_folders(files.values())).load([_spec(name, where)])["tasks"]
    except (FileNotFoundError, ConnectionError, OSError) as error:
        raise DataError(
            where,
            f"the data of task {name!r} cannot be had: {str(error).splitlines()[0]}",
            "data that lm-eval can load",
            "check the network, or the files that the task names",
        ) from None
    return [
        MeasuredTask(task, role, declared=files[task_name].declared, pool=files[task_name].pool)
        for task_name, task in loaded.items()
    ]


def _spec(name: str, where: str) -> str:
    """What lm-eval's task manager is asked for: the path of a task file, and of a group's file its name."""
    if not name.endswith((".yaml", ".yml")):
        return name
    path = existing_path(name, where)
    return group_name(path, where) or str(path)


def _folders(files: Iterable[TaskFile]) -> tuple[str, ...]:
    return tuple(sorted({str(FOLDER), *(str(path.parent) for file in files for path in (file.path, *file.groups))}))


@cache
def _manager(folders: tuple[str, ...]) -> TaskManager:
    """Knows the tasks of these folders only: indexing all that lm-eval has takes 17 seconds."""
    return TaskManager(include_path=list(folders), include_defaults=False)


def _can_be(measured: MeasuredTask) -> bool:
    """Prompts that are chat messages cannot be asked plainly."""
    return measured.chat or not isinstance(measured.task, MessagesTask)


def _require_possible(measured: MeasuredTask, where: str) -> None:
    if measured.variant and not (measured.asks and _can_be(measured)):
        reason = "its prompts are chat messages" if measured.asks else "it asks no question"
        name = measured.task.task_name
        what = f"task {name!r} cannot be asked as {measured.name!r}: {reason}"
        raise RecipeError(where, what, "a task with a prompt as text", f"name it {name}")


def _shots(measured: MeasuredTask, config: EvaluateConfig, where: str) -> int:
    """How many examples to show. As in lm-eval, a task that says 0 keeps it unless it is named with a number."""
    own = measured.task.get_config("num_fewshot")
    wanted = measured.variant.shots
    if wanted is None:
        wanted = own if config.fewshot is None or own == 0 or not measured.asks else config.fewshot
    if wanted and (config.fewshot is not None or measured.variant.shots is not None):
        _require_examples(measured.task, wanted, where)
    return wanted or 0


def _require_examples(task: Any, wanted: int, where: str) -> None:
    """Raises RecipeError where examples would have to come from the questions themselves: lm-eval would show answers."""
    drawn_from = task.fewshot_cfg.split or task.fewshot_cfg.samples or task.has_training_docs()
    apart = drawn_from or (task.has_test_docs() and task.has_validation_docs())
    there = len(task.sampler.df) if apart else 0
    if there < wanted + 1:
        raise RecipeError(
            f"{where}: {task.task_name}",
            f"{wanted} examples to show, {there} there are beside the questions",
            f"more than {wanted}",
            "name rows for them (`examples:`), or fewer examples",
        )


def _repeat(measured: MeasuredTask, config: EvaluateConfig) -> int:
    """Make a sampling task give several answers to each prompt, scored one by one: the item's score is their mean."""
    task, own = measured.task, measured.metadata.get("samples", 1)
    samples = own if own > 1 else config.samples
    untouched = task.get_config("filter_list") is None and task.get_config("repeats") == 1
    if samples == 1 or not measured.sampled or not measured.new_tokens or not untouched:
        return 1
    score_one = task.process_results

    def score_all(doc: Any, results: list[list[str]]) -> dict[str, float]:
        scores = [score_one(doc, [answer]) for answer in results[0]]
        return {metric: fmean(float(score[metric]) for score in scores) for metric in scores[0]}

    task.set_config("repeats", samples)
    task._filters = [build_filter_ensemble("none", [("take_first_k", {"k": samples})])]
    task.process_results = score_all
    return samples


def parts_of(tasks: list[MeasuredTask]) -> dict[str, list[MeasuredTask]]:
    """The tasks by the name of their score: one each, or the parts of a pool."""
    named: dict[str, list[MeasuredTask]] = {}
    for measured in tasks:
        named.setdefault(measured.name, []).append(measured)
    return named
