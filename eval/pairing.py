"""Two models' answers to the same items, side by side; refused unless they were measured in exactly the same way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alignment.core.errors import SuiteError
from eval.results import MeasuredModel, TaskItems

REMEDY = "evaluate both models again with the same recipe and the same versions"
SAME = {
    "metric": "metric",
    "filter": "answer filter",
    "backend": "backend",
    "dtype": "dtype",
    "format": "prompt format",
    "task_version": "task version",
    "data_digest": "task data",
    "chat_template_digest": "chat template",  # null for a task asked plainly
    "settings_digest": "way of measuring (context length, lm-eval's version; of answers also decoding, end tokens, scorer)",
}


@dataclass(frozen=True)
class PairedTask:
    """One task, every seed: `reference[S, n]` and `new[S, n]` hold the items' scores, for bits per byte the
    documents' bits."""

    items: list[tuple[TaskItems, TaskItems]]  # by seed
    reference: np.ndarray
    new: np.ndarray
    bytes: np.ndarray | None

    @property
    def first(self) -> TaskItems:
        return self.items[0][1]

    def varied(self, side: int) -> bool:
        """Does each seed have a model of its own on that side (0 reference, 1 new), or do all share one?"""
        return len({id(pair[side]) for pair in self.items}) == len(self.items)

    @property
    def binary(self) -> bool:
        return self.bytes is None and all(bool(np.isin(side, (0, 1)).all()) for side in (self.reference, self.new))


def pair_seeds(a: Sequence[MeasuredModel], b: Sequence[MeasuredModel]) -> list[tuple[MeasuredModel, MeasuredModel]]:
    """Reference and new model of each seed. A side with one model (a fixed seed) pairs with every seed of the other."""
    if not a or not b:
        raise SuiteError("comparison", "a side has no model", "at least one evaluated model on each side")
    reference, new = ({model.seed: model for model in side} for side in (a, b))
    for side, seeds in ((a, reference), (b, new)):
        if len(seeds) < len(side):
            raise SuiteError(side[0].stage, "two models with one seed", "each seed once")
    if len(reference) == 1:
        return [(a[0], new[seed]) for seed in sorted(new)]
    if len(new) == 1:
        return [(reference[seed], b[0]) for seed in sorted(reference)]
    if reference.keys() != new.keys():
        where, what = f"{a[0].stage} and {b[0].stage}", f"seeds {sorted(reference)} and {sorted(new)} do not pair"
        raise SuiteError(where, what, "the same seeds on both sides, or one model on one side", "run the missing seeds")
    return [(reference[seed], new[seed]) for seed in sorted(new)]


def pair_task(task: str, models: Sequence[tuple[MeasuredModel, MeasuredModel]]) -> PairedTask:
    """All seeds of one task on the same items. SuiteError when backend, dtype, chat template, task version, data or a
    prompt differ."""
    everyone = [model for pair in models for model in pair]
    first = everyone[0]
    for model in everyone:
        if task not in model.tasks:
            raise SuiteError(model.name, f"was not evaluated on {task}", f"{task} measured as for {first.name}", REMEDY)
        require_same_settings(task, first, model)
        require_same_items(task, first, model)
    items = [(reference.tasks[task], new.tasks[task]) for reference, new in models]
    if items[0][0].metric != "bits_per_byte":
        reference, new = (np.stack([pair[side].scores for pair in items]) for side in (0, 1))
        return PairedTask(items, reference, new, None)
    reference, new = (
        np.stack([-pair[side].numbers("log_likelihood") / math.log(2) for pair in items]) for side in (0, 1)
    )
    return PairedTask(items, reference, new, items[0][0].numbers("bytes"))


def require_same_settings(task: str, a: MeasuredModel, b: MeasuredModel) -> None:
    left, right = a.tasks[task].about, b.tasks[task].about
    for key, name in SAME.items():
        if left.get(key) != right.get(key):
            what = f"{name} differs: {left.get(key)!r} for {a.name}, {right.get(key)!r} for {b.name}"
            raise SuiteError(f"task {task}", what, f"the same {name} on both sides", REMEDY)


def require_same_items(task: str, a: MeasuredModel, b: MeasuredModel) -> None:
    left, right = a.tasks[task], b.tasks[task]
    if left.keys == right.keys:
        if left.metric == "bits_per_byte" and not np.array_equal(left.numbers("bytes"), right.numbers("bytes")):
            what = f"the documents' bytes differ between {a.name} and {b.name}"
            raise SuiteError(f"task {task}", what, "the same texts on both sides", REMEDY)
        return
    paired, total = len(set(left.keys) & set(right.keys)), len(set(left.keys) | set(right.keys))
    same_documents = len({key[:3] for key in left.keys} & {key[:3] for key in right.keys})
    reason = "the same documents under other prompts" if same_documents > paired else "documents on one side only"
    what = f"{a.name} and {b.name} pair to {100 * paired / total:.1f} % ({paired} of {total} items; {reason})"
    raise SuiteError(f"task {task}", what, "every item on both sides: same document, same prompt", REMEDY)


def bit_for_bit(a: MeasuredModel, b: MeasuredModel) -> bool:
    """Do all scores, choices and likelihoods of two models agree exactly? So looks an adapter that was not loaded."""
    shared = a.tasks.keys() & b.tasks.keys()
    columns = ("score", "choice_lls", "log_likelihood")
    return bool(shared) and all(
        a.tasks[task].keys == b.tasks[task].keys
        and all(a.tasks[task].rows[name].equals(b.tasks[task].rows[name]) for name in columns)
        for task in shared
    )
