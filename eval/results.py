"""What a report is made from, and the files it leaves: `results.json` (schema 1.0) and `items.parquet`.

Every number of `results.json` can be recomputed from `items.parquet`. `delta` is the raw difference, new minus
reference, so for a metric where lower is better a positive delta is a loss; the verdict takes care of the sign. `n`
counts items; `n11`, `n10`, `n01` and `n00` count items over all seeds. A comparison whose task starts with `group:`
is the unweighted mean over that role's tasks.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from alignment.core.errors import SuiteError
from eval.config import ROLES, Comparison, Role
from eval.items import SCHEMA, in_schema
from eval.win_summary import JudgedCell

GROUP = "group:"


@dataclass(frozen=True)
class MeasuredModel:
    """One evaluated cell.

    parent: the stage whose model this one started from. method: the stage's kind. evaluation: folder with
    `items.parquet` and `evaluation.json`. training: summary of the training cell. metrics: its `metrics.jsonl`, for
    curves. snapshots: the same model earlier in its training, each with its `step`, which is None for a finished model.
    """

    stage: str
    seed: int
    parent: str | None
    method: str
    evaluation: Path
    training: Mapping[str, Any]
    metrics: Path | None
    weights_digest: str
    step: int | None = None
    snapshots: Sequence[MeasuredModel] = ()

    @property
    def name(self) -> str:
        place = "" if self.step is None else f", step {self.step}"
        return f"{self.stage} (seed {self.seed}{place})"

    @property
    def values(self) -> dict[str, float]:
        """The score of every task."""
        return {task: items.about["value"] for task, items in self.tasks.items()}

    @cached_property
    def tasks(self) -> dict[str, TaskItems]:
        """The scored items by task, read once."""
        return _read_tasks(self)

    @cached_property
    def table(self) -> pa.Table:
        """All rows of this cell with its own stage name and seed."""
        rows = in_schema(pq.read_table(self.evaluation / "items.parquet"))
        stage = pa.array([self.stage] * len(rows), pa.string())
        seed = pa.array([self.seed] * len(rows), pa.int64())
        return rows.set_column(0, SCHEMA.field("stage"), stage).set_column(1, SCHEMA.field("seed"), seed)


@dataclass(frozen=True)
class ReportInput:
    """Everything a report needs. target, retained, extra: names of tasks. comparison: the declared contrasts and margins.
    reward_models: summaries of the training of reward models, each with its `stage` and `seed`. win_rates: for each declared
    one its cells, by seed."""

    recipe: str
    question: str
    recipe_text: str
    recipe_digest: str
    code_commit: str
    versions: Mapping[str, str]
    hardware: str
    models: Sequence[MeasuredModel]
    target: Sequence[str]
    retained: Sequence[str]
    comparison: Comparison
    warnings: Sequence[str] = ()
    extra: Sequence[str] = ()
    reward_models: Sequence[Mapping[str, Any]] = ()
    win_rates: Sequence[Sequence[JudgedCell]] = ()

    @property
    def roles(self) -> Mapping[str, Role]:
        return {task: role for role in ROLES for task in getattr(self, role)}


@dataclass(frozen=True)
class TaskItems:
    """One model's items of one task, sorted by pairing key. `about` is the task's entry in `evaluation.json`."""

    task: str
    about: Mapping[str, Any]
    keys: list[tuple]  # (filter, doc_id, doc_hash, prompt_hash)
    rows: pa.Table

    @property
    def metric(self) -> str:
        return self.about["metric"]

    @property
    def higher_is_better(self) -> bool:
        return bool(self.about["higher_is_better"])

    def numbers(self, column: str) -> np.ndarray:
        return self.rows[column].to_numpy(zero_copy_only=False).astype(float)

    @cached_property
    def scores(self) -> np.ndarray:
        return self.numbers("score")

    @cached_property
    def clusters(self) -> np.ndarray | None:
        """Labels of the items' sources, None where the task declares none."""
        labels = self.rows["cluster"].to_pylist()
        if not any(labels):
            return None
        return np.array([label or f"item {index}" for index, label in enumerate(labels)])

    @cached_property
    def gold_margins(self) -> np.ndarray | None:
        """ll of the right choice minus that of the best other one, None where the task has no choices."""
        pairs = list(zip(self.rows["choice_lls"].to_pylist(), self.rows["gold_choice"].to_pylist(), strict=True))
        if not pairs or any(not lls or len(lls) < 2 or gold is None or gold < 0 for lls, gold in pairs):
            return None
        return np.array([lls[gold] - max(lls[:gold] + lls[gold + 1 :]) for lls, gold in pairs])


def _read_tasks(model: MeasuredModel) -> dict[str, TaskItems]:
    path = model.evaluation / "evaluation.json"
    if not path.is_file():
        raise SuiteError(model.name, f"no evaluation at {path}", "a finished evaluation cell", "run the recipe first")
    about = json.loads(path.read_text())["tasks"]
    rows = model.table
    names = rows["task"].to_pylist()
    return {task: _task_items(model, task, entry, rows, names) for task, entry in about.items()}


def _task_items(
    model: MeasuredModel, task: str, about: Mapping[str, Any], rows: pa.Table, names: list[str]
) -> TaskItems:
    filters = rows["filter"].to_pylist()
    wanted = about.get("filter") or "none"
    mine = rows.take(
        [i for i, (name, kept) in enumerate(zip(names, filters, strict=True)) if (name, kept) == (task, wanted)]
    )
    columns = [mine[name].to_pylist() for name in ("filter", "doc_id", "doc_hash", "prompt_hash")]
    keys = list(zip(*columns, strict=True))
    where = f"{model.name}, task {task}"
    if not keys:
        raise SuiteError(
            where, f"no items with filter {wanted!r}", "at least one scored item", "evaluate the model again"
        )
    if len(set(keys)) < len(keys):
        raise SuiteError(
            where, "items share one pairing key", "one row per document and prompt", "evaluate the model again"
        )
    if about.get("n") not in (None, len(keys)):
        what = f"evaluation.json counts {about['n']} items, items.parquet holds {len(keys)}"
        raise SuiteError(where, what, "the same number in both", "evaluate the model again")
    column = "log_likelihood" if about["metric"] == "bits_per_byte" else "score"
    if not np.isfinite(mine[column].to_numpy(zero_copy_only=False).astype(float)).all():
        raise SuiteError(
            where, f"items without a finite {column}", "a number for every item", "evaluate the model again"
        )
    order = sorted(range(len(keys)), key=lambda index: tuple(map(str, keys[index])))
    return TaskItems(task, about, [keys[index] for index in order], mine.take(order))


def results_json(report: ReportInput, comparisons: Sequence[Any], **derived: Sequence[Any]) -> dict[str, Any]:
    """The document `results.json`. comparisons: `eval.comparison.TaskComparison` rows. derived: what else was computed, by its
    name there; every entry has `as_json`."""
    return {
        "schema": "1.1",
        "run_id": run_id(report),
        "recipe_digest": report.recipe_digest,
        "code_commit": report.code_commit,
        "versions": dict(report.versions),
        "stages": [_stage_entry(model) for model in report.models],
        "evaluations": [
            _evaluation_entry(model, task, items) for model in report.models for task, items in model.tasks.items()
        ],
        "curves": [_curve_entry(snapshot) for model in report.models for snapshot in model.snapshots],
        "comparisons": [row.as_json() for row in comparisons],
        "divergence": [],
        "reward_models": [],
        "overoptimisation": [],
    } | {name: [entry.as_json() for entry in entries] for name, entries in derived.items()}


def _curve_entry(snapshot: MeasuredModel) -> dict[str, Any]:
    """A model along its training: the scores of all tasks."""
    return {"stage": snapshot.stage, "seed": snapshot.seed, "step": snapshot.step, "values": snapshot.values}


def run_id(report: ReportInput) -> str:
    return f"{report.recipe}-{report.recipe_digest[:12]}"


def _stage_entry(model: MeasuredModel) -> dict[str, Any]:
    training = model.training
    return {
        "id": model.stage,
        "parent": model.parent,
        "seed": model.seed,
        "weights_digest": model.weights_digest,
        "tokens": training.get("train_tokens", 0),
        "steps": training.get("steps", 0),
        "seconds": training.get("seconds", 0),
    }


def _evaluation_entry(model: MeasuredModel, task: str, items: TaskItems) -> dict[str, Any]:
    copied = (
        "role",
        "metric",
        "filter",
        "value",
        "n",
        "chance",
        "higher_is_better",
        "backend",
        "dtype",
        "task_version",
    )
    entry = {"stage": model.stage, "seed": model.seed, "task": task}
    return entry | {key: items.about.get(key) for key in (*copied, "data_digest", "truncated")}


def all_items(report: ReportInput) -> pa.Table:
    """The rows of every model, with the run's name and the training's step in front; no step for a finished model."""
    everyone = [each for model in report.models for each in (model, *model.snapshots)]
    table = pa.concat_tables([model.table for model in everyone])
    steps = [step for model in everyone for step in [model.step] * len(model.table)]
    table = table.add_column(0, pa.field("step", pa.int64()), pa.array(steps, pa.int64()))
    return table.add_column(0, pa.field("run", pa.string()), pa.array([run_id(report)] * len(table), pa.string()))


@contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes `path`'s place only when the block ends well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """JSON has no NaN or infinity: they become null."""
    match value:
        case dict():
            return {key: plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [plain(inner) for inner in value]
        case np.generic():
            return plain(value.item())
        case float() if not math.isfinite(value):
            return None
    return value


def write_results(results: dict[str, Any], items: pa.Table, folder: Path) -> None:
    """`results.json` and `items.parquet` into `folder`, each atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomically(folder / "items.parquet") as path:
        pq.write_table(items, path, compression="zstd")
    with atomically(folder / "results.json") as path:
        path.write_text(json.dumps(plain(results), indent=1, allow_nan=False) + "\n")
