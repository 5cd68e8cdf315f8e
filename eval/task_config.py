"""Tasks that a recipe makes from local rows, and the variants in which a task can be asked. No torch here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from alignment.core.config import Config, DataRef
from alignment.core.errors import RecipeError

Template = Annotated[str, Field(min_length=1, description="text with columns in braces: {question}")]
Format = Literal["plain", "chat"]
_VARIANT = re.compile(r"(plain|chat|\d+shot)")


class _LocalTask(Config):
    """What all tasks from local rows share."""

    data: DataRef
    examples: DataRef | None = Field(
        None, description="rows to show as examples (`fewshot`); none = the rows of `data` that the limits leave out"
    )
    limit: int | None = Field(None, gt=0, description="only the first so many rows")
    per_cluster: int | None = Field(None, gt=0, description="only the first so many rows of each cluster")
    cluster: str | None = Field(None, description="a column: items that share its value share a source")
    chance: float | None = Field(None, ge=0, lt=1, description="score of a guess; none = that of the kind of task")
    on_error: Literal["stop", "skip"] = Field(
        "stop", description="skip: leave out rows that do not fit, and say how many"
    )

    @model_validator(mode="after")
    def _has_clusters(self) -> _LocalTask:
        if self.per_cluster is not None and self.cluster is None:
            raise ValueError("per_cluster needs the column that names the clusters: `cluster`")
        return self


class ChoicesTask(_LocalTask):
    """Multiple choice: right if the right choice has the highest log-likelihood after the prompt. Metric: acc.

    choices: the column with a list, or one column for each choice. answer: the column that says which is right, as its
    text, its place (0, 1, ...) or its letter (A, B, ...). answer_is: how to read it, where rows allow two readings;
    `number` counts from 1. delimiter: stands between prompt and choice, but not in the chat format.
    """

    metric: Literal["choices"]
    prompt: Template = "{question}"
    choices: str | list[str] = "choices"
    answer: str = "answer"
    answer_is: Literal["text", "index", "number", "letter"] | None = None
    delimiter: str = " "


class LabelsTask(_LocalTask):
    """Which of a few labels a text has. A language model is right if the right label has the highest log-likelihood after the
    prompt, a classifier (a stage of kind `classify`) if its head says so of `text`: both on the same items. Metric: acc.

    labels: a classifier's own. answer: the column with the right one, as its text or its place (0, 1, ...); answer_is: how to read
    it, where rows allow two readings. delimiter: stands between prompt and label, but not in the chat format.
    """

    metric: Literal["labels"]
    prompt: Template
    text: Template | None = Field(None, description="what a classifier reads; none = it is not measured on this task")
    labels: list[str] = Field(min_length=2)
    answer: str = "label"
    answer_is: Literal["text", "index"] | None = None
    delimiter: str = " "

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: list[str]) -> list[str]:
        if len(set(labels)) < len(labels) or not all(label.strip() for label in labels):
            raise ValueError("each label once, and none empty")
        return labels


class ExactTask(_LocalTask):
    """The model answers; right if the answer is the target, white space aside. Metric: exact_match.

    target: a column with one accepted answer or a list of them. extract: a regular expression, applied to answer and
    target alike; its last match counts, or that match's first group. stop: texts that end an answer, besides end tokens.
    samples: answers to each prompt; the score is their mean.
    """

    metric: Literal["exact_match"]
    prompt: Template = "{prompt}"
    target: str = "target"
    extract: str | None = None
    ignore_case: bool = False
    ignore_punctuation: bool = False
    stop: list[str] = []
    max_new_tokens: int = Field(48, gt=0)
    temperature: float = Field(0.0, ge=0)
    samples: int = Field(1, gt=0)

    @field_validator("extract")
    @classmethod
    def _compiles(cls, extract: str | None) -> str | None:
        try:
            re.compile(extract or "")
        except re.error as error:
            raise ValueError(f"a regular expression: {error}") from None
        return extract


class PairsTask(_LocalTask):
    """Two texts that differ in one respect: right if the good one is more likely as a whole (BLiMP). Metric: acc.

    delimiter: stands in front of both; lm-eval's own task `blimp` has a space there.
    """

    metric: Literal["pairs"]
    good: str = "good"
    bad: str = "bad"
    delimiter: str = ""


class LastWordTask(_LocalTask):
    """Right if the model's most likely continuation is the last word (LAMBADA). Metric: acc.

    text: the column with the whole text, cut at its last space; none = the rows hold context and word apart: `prompt` and
    `target`.
    """

    metric: Literal["last_word"]
    text: str | None = None
    prompt: Template = "{context}"
    target: str = "target"


LocalTask = ChoicesTask | LabelsTask | ExactTask | PairsTask | LastWordTask
LOCAL_FIELDS = frozenset(_LocalTask.model_fields)  # which rows are asked; all other fields say how answers are scored


class Asking(Config):
    """How tasks are asked. Options that are off are left out of what identifies an evaluation."""

    formats: list[Format] = Field(
        [],
        exclude_if=lambda value: not value,
        description="ask the retained tasks in these formats besides their own: [plain, chat] tells what is forgotten "
        "from what only a new format hides",
    )
    fewshot: int | None = Field(
        None,
        ge=0,
        exclude_if=lambda value: value is None,
        description="show so many examples before each question; none = as each task says. Tasks that say 0 keep it",
    )
    samples: int = Field(
        1, gt=0, exclude_if=lambda value: value == 1, description="answers to each prompt of tasks that sample"
    )
    run_generated_code: bool = Field(
        False,
        exclude_if=lambda value: not value,
        description="run programs that the model writes, on this machine and as this user, for tasks that score them so",
    )


@dataclass(frozen=True)
class Variant:
    """How a task named `task@chat@3shot` is asked; None = as the task itself says."""

    format: Format | None = None
    shots: int | None = None

    def __bool__(self) -> bool:
        return self != AS_IT_IS


AS_IT_IS = Variant()


def split_variant(name: str) -> tuple[str, Variant]:
    """`lab_facts@chat@3shot` -> (`lab_facts`, chat, 3 examples). Raises RecipeError for two that contradict each other."""
    options: list[str] = []
    base = name
    while (cut := base.rfind("@")) > 0 and _VARIANT.fullmatch(base[cut + 1 :]):
        options.append(base[cut + 1 :])
        base = base[:cut]
    formats = [option for option in options if not option.endswith("shot")]
    shots = [int(option.removesuffix("shot")) for option in options if option.endswith("shot")]
    if len(formats) > 1 or len(shots) > 1:
        what = f"{name!r} asks for two formats" if len(formats) > 1 else f"{name!r} asks for two numbers of examples"
        raise RecipeError("evaluation", what, "for example lab_facts@chat or lab_facts@3shot", "drop one")
    return base, Variant(formats[0] if formats else None, shots[0] if shots else None)  # type: ignore[arg-type]


def base_name(name: str) -> str:
    """The task's name without `@chat` and the like."""
    return split_variant(name)[0]
