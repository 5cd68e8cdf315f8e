"""Documents and scoring of the lab's tasks, called from the YAML files beside this one."""

from __future__ import annotations

from typing import Any

from datasets import Dataset

from alignment.data.rows import prompt_text
from alignment.lab import data
from alignment.lab.service import gold


def _skill(name: str) -> dict[str, Dataset]:
    """Test documents of one skill: prompt, answer, choices, and `gold_choice`, the place of the answer among them."""
    items = [row for row in data.rows("skills", "test") if row["skill"] == name]
    for item in items:
        item["gold_choice"] = item["choices"].index(item["answer"]) if item["choices"] else -1
    return {"test": Dataset.from_list(items)}


def _service(split: str) -> dict[str, Dataset]:
    """Guests' remarks: `prompt` is the user's message."""
    return {"test": Dataset.from_list([{"prompt": prompt_text(row["prompt"])} for row in data.rows("guests", split)])}


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
