"""lm-eval tasks made from local rows: multiple choice, exact match, pairs of texts, last words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_eval.api.task import ConfigurableTask

from alignment.core.artifact import Artifact
from alignment.data.rows import Row
from eval.local_rows import chosen, normalise, read_documents
from eval.task_config import LOCAL_FIELDS, ChoicesTask, ExactTask, LabelsTask, LastWordTask, LocalTask, PairsTask
from eval.text_tasks import decoding, task_config

ACC = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
EXACT = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]


def local_task(name: str, task: LocalTask, inputs: Mapping[str, Artifact]) -> ConfigurableTask:
    """The lm-eval task of a `tasks:` block. Raises DataError for rows that do not fit it."""
    where = f"evaluation.tasks.{name}"
    rows, left_out = read_documents(task, task.data, inputs.get(f"tasks.{name}.data"), f"{where}.data")
    docs, examples = chosen(task, rows)
    if task.examples is not None:
        examples = read_documents(task, task.examples, inputs.get(f"tasks.{name}.examples"), f"{where}.examples").rows
    chance = 0.0 if task.chance is None and isinstance(task, ExactTask | LastWordTask) else task.chance
    common = task_config(name, docs, chat=False, chance=chance, cluster="cluster" if task.cluster else None)
    own = _own(task)
    scoring = task.model_dump(mode="json", exclude=set(LOCAL_FIELDS))
    more = {"scoring": scoring, "samples": task.samples if isinstance(task, ExactTask) else 1, "left_out": left_out}
    more |= {"labels": task.labels} if isinstance(task, LabelsTask) else {}
    if not isinstance(task, PairsTask):  # a pair of texts answers nothing
        own |= {"num_fewshot": None}
        own |= {"custom_dataset": _splits(docs, examples), "fewshot_split": "examples"} if examples else {}
    return ConfigurableTask(config=common | own | {"metadata": common["metadata"] | more})


def _own(task: LocalTask) -> dict[str, Any]:
    match task:
        case ChoicesTask() | LabelsTask():
            return {
                "output_type": "multiple_choice",
                "doc_to_text": "prompt",
                "doc_to_choice": "choices",
                "doc_to_target": "gold",
                "target_delimiter": task.delimiter,
                "metric_list": ACC,
            }
        case ExactTask():
            return {
                "output_type": "generate_until",
                "doc_to_text": "prompt",
                "doc_to_target": "answer",
                "generation_kwargs": decoding(task.temperature, task.max_new_tokens, task.stop),
                "process_results": lambda doc, results: {"exact_match": _matches(task, doc, results[0])},
                "metric_list": EXACT,
            }
        case PairsTask():
            return {
                "output_type": "multiple_choice",
                "doc_to_text": "",
                "doc_to_choice": lambda doc: [doc["good"], doc["bad"]],
                "doc_to_target": 0,
                "target_delimiter": task.delimiter,
                "metric_list": ACC,
            }
        case LastWordTask():
            return {
                "output_type": "loglikelihood",
                "doc_to_text": "prompt",
                "doc_to_target": lambda doc: f" {doc['answer']}",
                "target_delimiter": "",  # the example's answer brings its own space
                "metric_list": ACC,
            }


def _matches(task: ExactTask, doc: Row, answer: str) -> float:
    found = normalise(answer, task)
    return float(found is not None and found in {normalise(target, task) for target in doc["targets"]})


def _splits(docs: list[Row], examples: list[Row]) -> Any:
    import datasets

    return lambda **_: {"test": datasets.Dataset.from_list(docs), "examples": datasets.Dataset.from_list(examples)}
