"""All kinds of items, to be filtered and read: the question, both answers, what changed.

The page carries a bounded part of `items.parquet`: every task in turn gives its next item, those first on which the models
differ most, until the page holds MOST items or TEXTS characters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from typing import Any

import numpy as np

from eval import words
from eval.report.page import Page, Section, as_json
from eval.results import MeasuredModel, TaskItems

MOST = 1500
TEXTS = 1_500_000  # characters of different texts
LONGEST = 500  # characters of one text; of a long prompt its end, where the question stands


class Texts:
    """Every different text once, by number. size: characters so far."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self.size = 0
        self._numbers: dict[str, int] = {}

    def number(self, text: str | None, keep_end: bool = False) -> int | None:
        if not text:
            return None
        if len(text) > LONGEST:
            text = f"… {text[-LONGEST:]}" if keep_end else f"{text[:LONGEST]} …"
        if text not in self._numbers:
            self._numbers[text] = len(self.all)
            self.all.append(text)
            self.size += len(text)
        return self._numbers[text]


def section(page: Page) -> Section | None:
    models, tasks = page.report.models, list(page.report.roles)
    pairs = [_pair(arm.reference, arm.new, arm.seeds, models) for arm in page.everything]
    if not pairs:
        return None
    texts = Texts()
    rows = list(_rows(page, tasks, texts))
    total = sum(len(models[0].tasks[task].keys) for task in tasks)
    document = {
        "pairs": pairs,
        "tasks": [{"name": task, **_reading([model.tasks[task] for model in models])} for task in tasks],
        "texts": texts.all,
        "items": rows,
    }
    counts = {"shown": len(rows), "left_out": total - len(rows), "total": total}
    return page.section("items", "Item by item", tasks=tasks, pairs=pairs, counts=counts, document=as_json(document))


def _pair(reference: str, new: str, seeds: Sequence[int], models: Sequence[MeasuredModel]) -> dict[str, Any]:
    """Which two models are compared at each seed, by their numbers; a model that all seeds share stands for each."""

    def number(stage: str, seed: int) -> int:
        own = [i for i, model in enumerate(models) if model.stage == stage]
        return next((i for i in own if models[i].seed == seed), own[0])

    sides = [[number(reference, seed), number(new, seed)] for seed in seeds]
    return {"reference": reference, "new": new, "seeds": list(seeds), "sides": sides}


def _reading(sides: Sequence[TaskItems]) -> dict[str, Any]:
    """How the page reads the task's scores: right and wrong where all are 0 or 1 and a one is the better, else more or less."""
    items, bits = sides[0], sides[0].metric == words.BITS
    binary = not bits and items.higher_is_better and all(np.isin(side.scores, (0.0, 1.0)).all() for side in sides)
    return {
        "unit": "bits per byte" if bits else items.metric.replace("_", " "),
        "binary": binary,
        "up": items.higher_is_better,
    }


def _rows(page: Page, tasks: Sequence[str], texts: Texts) -> Iterator[list[Any]]:
    """Rows [task, prompt, right answer, score of each model, answer of each model]; texts by number."""
    streams = [_task_rows(page.report.models, task, number, texts) for number, task in enumerate(tasks)]
    in_turn = chain.from_iterable(zip_longest(*streams))
    for count, row in enumerate((row for row in in_turn if row is not None), start=1):
        yield row
        if count >= MOST or texts.size >= TEXTS:
            return


def _task_rows(models: Sequence[MeasuredModel], task: str, number: int, texts: Texts) -> Iterator[list[Any]]:
    sides = [model.tasks[task] for model in models]
    first = sides[0]
    values = np.stack([_values(side) for side in sides])
    about = first.rows.select(["prompt", "target"]).to_pylist()
    outputs = [side.rows["output"].to_pylist() for side in sides]
    for index in np.argsort(-np.ptp(values, axis=0), kind="stable").tolist():
        prompt, target = texts.number(about[index]["prompt"], keep_end=True), texts.number(about[index]["target"])
        answers = [texts.number(output[index]) for output in outputs]
        yield [number, prompt, target, [round(value, 4) for value in values[:, index].tolist()], answers]


def _values(items: TaskItems) -> np.ndarray:
    """`[n]` scores; for bits per byte the document's own."""
    if items.metric != words.BITS:
        return items.scores
    return -items.numbers("log_likelihood") / math.log(2) / items.numbers("bytes")
