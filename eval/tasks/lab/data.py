"""Documents and scoring of the lab's tasks, called from the YAML files beside this one."""

from __future__ import annotations

from typing import Any

from datasets import Dataset

from alignment.data.rows import prompt_text
from alignment.lab import data
from alignment.lab.service import gold

EXAMPLES = 100  # from which those before a question are drawn


def _skill(name: str) -> dict[str, Dataset]:
    """Documents of one skill, and examples from its training items: prompt, answer, choices, and `gold_choice`, the place of the
    answer among them."""
    return {"test": _items(name, "test"), "examples": _items(name, "train").take(EXAMPLES)}


def _items(name: str, split: str) -> Dataset:
    items = [row for row in data.rows("skills", split) if row["skill"] == name]
    for item in items:
        item["gold_choice"] = item["choices"].index(item["answer"]) if item["choices"] else -1
    return Dataset.from_list(items)


def _service(split: str) -> dict[str, Dataset]:
    """Guests' remarks, `prompt` is the user's message; examples with the `answer` of a perfect innkeeper."""
    examples = [
        {"prompt": prompt_text(row["prompt"]), "answer": row["completion"][0]["content"]}
        for row in data.rows("expert", "train")[:EXAMPLES]
    ]
    remarks = [{"prompt": prompt_text(row["prompt"])} for row in data.rows("guests", split)]
    return {"test": Dataset.from_list(remarks), "examples": Dataset.from_list(examples)}


def score_gold(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """The gold score of the one answer that was sampled."""
    return {"gold": gold(doc["prompt"], results[0])}


def load_facts(**_: Any) -> dict[str, Dataset]:
    return _skill("facts")


def load_odd(**_: Any) -> dict[str, Dataset]:
    return _skill("odd")


def load_compare(**_: Any) -> dict[str, Dataset]:
    return _skill("compare")


def load_add(**_: Any) -> dict[str, Dataset]:
    return _skill("add")


def load_sentiment(**_: Any) -> dict[str, Dataset]:
    return _skill("sentiment")


def load_agreement(**_: Any) -> dict[str, Dataset]:
    return _skill("agreement")


def load_sort(**_: Any) -> dict[str, Dataset]:
    return _skill("sort")


def load_backwards(**_: Any) -> dict[str, Dataset]:
    return _skill("backwards")


def load_service(**_: Any) -> dict[str, Dataset]:
    return _service("test")


def load_service_generalisation(**_: Any) -> dict[str, Dataset]:
    return _service("generalisation")
