"""Which of a role's tasks have a mean that says something: only scores on one scale can be averaged."""

from __future__ import annotations

from collections.abc import Mapping

from eval.results import TaskItems

PROPORTIONS = {"acc", "exact_match", "pass@1", "prompt_level_strict_acc"}


def on_one_scale(tasks: Mapping[str, TaskItems]) -> list[str]:
    """The proportions of right answers, if there are any; else the tasks with the metric, and the direction, of the first."""
    proportions = [name for name, items in tasks.items() if items.metric in PROPORTIONS and items.higher_is_better]
    if proportions or not tasks:
        return proportions
    first = next(iter(tasks.values()))
    scale = (first.metric, first.higher_is_better)
    return [name for name, items in tasks.items() if (items.metric, items.higher_is_better) == scale]
