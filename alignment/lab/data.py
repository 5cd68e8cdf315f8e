"""The lab's data sets as rows: `data: {lab: demonstrations}` in a recipe. Deterministic; no torch, no files."""

from __future__ import annotations

import random
from functools import cache
from itertools import islice, zip_longest
from typing import Any

from alignment.core.errors import DataError
from alignment.lab import corpus, service, skills

LAB_VERSION = 2  # raise it when any row changes: results stored under the old number are then not reused
_SIZES = {"train": 4000, "validation": 400, "test": 300, "generalisation": 300}
_DOCUMENTS = {"train": 20_000, "validation": 1000, "test": 1000}
_LESSONS = {"train": 4000, "validation": 400, "test": skills.TEST_ITEMS}  # fewer where a skill has no more items


def rows(name: str, split: str) -> list[dict[str, Any]]:
    """The rows of one data set.

    corpus:         `text`, documents as in pre-training.
    guests:         `prompt` (messages); also in split `generalisation`, whose names and things no training prompt has.
    demonstrations: the same prompts with a `completion` (messages) by the lazy demonstrator.
    expert:         the same prompts with perfect completions.
    skills:         all items of the eight skills: skill, prompt, answer, choices, cluster.
    skill-add, ...: the items of one skill as `prompt` and `completion` (plain text), to teach it with; skill-add+sort: of both.
    Raises DataError for a split that the data set does not have.
    """
    taught = _taught(name)
    sizes = _DOCUMENTS if name in ("corpus", "skills") else _LESSONS if taught else _SIZES
    if split not in sizes:
        raise DataError(
            f"lab data set {name}", f"no split {split!r}", f"one of {', '.join(sizes)}", "correct the split"
        )
    made = _lessons(taught, split) if taught else _MAKERS[name](split)
    return [dict(row) for row in made]


def known(name: str) -> bool:
    """Whether there is such a data set; `NAMES` lists them but for those of several skills."""
    return name in _MAKERS or bool(_taught(name))


def _taught(name: str) -> list[str]:
    """The skills of a data set such as `skill-add` or `skill-add+sort`; none for any other."""
    names = name.removeprefix("skill-").split("+") if name.startswith("skill-") else []
    return names if set(names) <= skills.SKILLS.keys() and len(set(names)) == len(names) else []


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


def _lessons(taught: list[str], split: str) -> list[dict[str, Any]]:
    """What the corpus would say of these skills, in turn: training, validation and test items are the same as there."""
    turns = zip_longest(*(skills.items(skill, split, _LESSONS[split]) for skill in taught))
    found = (item for turn in turns for item in turn if item is not None)
    return [{"prompt": item.prompt, "completion": f" {item.answer}"} for item in found]


_MAKERS = {
    "corpus": _corpus,
    "demonstrations": _demonstrations,
    "expert": _expert,
    "guests": _guests,
    "skills": _skills,
}
NAMES = (*_MAKERS, *(f"skill-{skill}" for skill in skills.SKILLS))


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
