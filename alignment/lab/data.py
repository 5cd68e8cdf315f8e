"""The lab's data sets as rows: `data: {lab: demonstrations}` in a recipe. Deterministic; no torch, no files."""

from __future__ import annotations

import random
from functools import cache
from itertools import islice
from typing import Any

from alignment.core.errors import DataError
from alignment.lab import corpus, service, skills

LAB_VERSION = 1  # raise it when any row changes: results stored under the old number are then not reused
_SIZES = {"train": 4000, "validation": 400, "test": 300, "generalisation": 300}
_DOCUMENTS = {"train": 20_000, "validation": 1000, "test": 1000}


def rows(name: str, split: str) -> list[dict[str, Any]]:
    """The rows of one data set.

    corpus:         `text`, documents as in pre-training.
    guests:         `prompt` (messages); also in split `generalisation`, whose names and things no training prompt has.
    demonstrations: the same prompts with a `completion` (messages) by the lazy demonstrator.
    expert:         the same prompts with perfect completions.
    skills:         all items of the retained skills: skill, prompt, answer, choices, cluster.
    Raises DataError for a split that the data set does not have.
    """
    sizes = _DOCUMENTS if name in ("corpus", "skills") else _SIZES
    if split not in sizes:
        raise DataError(
            f"lab data set {name}", f"no split {split!r}", f"one of {', '.join(sizes)}", "correct the split"
        )
    return [dict(row) for row in _MAKERS[name](split)]


def _corpus(split: str) -> list[dict[str, Any]]:
    return [{"text": document.text} for document in islice(corpus.documents(split, seed=0), _DOCUMENTS[split])]


def _guests(split: str) -> list[dict[str, Any]]:
    return [{"prompt": _message("user", remark.text)} for remark in _remarks(split)]


def _demonstrations(split: str) -> list[dict[str, Any]]:
    return _answered(split, service.LAZY)


def _expert(split: str) -> list[dict[str, Any]]:
    return _answered(split, service.EXPERT)


def _skills(split: str) -> list[dict[str, Any]]:
    found = (item for skill in skills.SKILLS for item in skills.items(skill, split))
    return [
        {"skill": i.skill, "prompt": i.prompt, "answer": i.answer, "choices": list(i.choices), "cluster": i.cluster}
        for i in found
    ]


_MAKERS = {
    "corpus": _corpus,
    "demonstrations": _demonstrations,
    "expert": _expert,
    "guests": _guests,
    "skills": _skills,
}
NAMES = tuple(_MAKERS)


def _answered(split: str, manner: service.Manner) -> list[dict[str, Any]]:
    rng = random.Random(f"answers {split}")
    return [
        {
            "prompt": _message("user", remark.text),
            "completion": _message("assistant", service.answer(remark, manner, rng)),
        }
        for remark in _remarks(split)
    ]


@cache
def _remarks(split: str) -> tuple[service.Remark, ...]:
    """Distinct remarks, in an order that a shorter list shares."""
    rng, found = random.Random(f"remarks {split}"), {}
    while len(found) < _SIZES[split]:
        remark = service.draw((split,), rng)
        found.setdefault(remark.text, remark)
    return tuple(found.values())


def _message(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]
