"""Local rows as documents of a task: columns mapped, every row checked. No torch, no lm-eval: `align check` reads them too."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alignment.core.artifact import Artifact
from alignment.core.config import DataRef
from alignment.core.errors import DataError
from alignment.data.formats import AS_THEY_ARE
from alignment.data.reading import has_lines
from alignment.data.rows import Row, load_rows, read_rows
from eval.task_config import ChoicesTask, ExactTask, LabelsTask, LastWordTask, LocalTask, PairsTask

_COLUMN = re.compile(r"\{([^{}]+)\}")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SHOWN = 5


class _Unfit(ValueError):
    """A row that the task cannot use."""


class Documents(NamedTuple):
    """left_out: how many rows did not fit, where the task says to skip them."""

    rows: list[Row]
    left_out: int


def read_documents(task: LocalTask, data: DataRef, artifact: Artifact | None, where: str) -> Documents:
    """The rows of `data` as documents of `task`, all of them, whatever its limit.

    choices: prompt, choices, gold (the place of the right one). labels: the same, with the text that a classifier reads.
    exact_match: prompt, answer (the first target), targets.
    pairs: good, bad. last_word: prompt, answer. With `cluster` where the task names one.
    Raises DataError with file and line of rows that hold no such document, or could be read in two ways, unless the task skips them.
    """
    raw = data if data.format else data.model_copy(update={"format": AS_THEY_ARE})  # the task names the columns itself
    rows = load_rows(raw, artifact, where=where)
    read = _reader(task)
    found, bad = [], []
    for row in rows:
        try:
            found.append(read(row) | _cluster(task, row))
        except _Unfit as problem:
            bad.append((row, str(problem)))
    if bad and (task.on_error == "stop" or not found):
        places = _Places(data, where)
        listed = "".join(f"\n    {places.of(row)}: {problem}" for row, problem in bad[:_SHOWN])
        more = f"\n    ... and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise DataError(
            where,
            f"{len(bad)} of {len(rows)} rows do not fit:{listed}{more}",
            f"rows for a task of metric {task.metric}",
            "mend these rows, name the columns that hold them, or leave them out with `on_error: skip`",
        )
    return Documents(found, len(bad))


def chosen(task: LocalTask, documents: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The documents to ask, within the task's limits, and the others, from which examples may be taken."""
    asked, rest = [], []
    seen: Counter[str] = Counter()
    for document in documents:
        seen[document.get("cluster", "")] += 1
        full = task.per_cluster is not None and seen[document["cluster"]] > task.per_cluster
        (rest if full or (task.limit is not None and len(asked) >= task.limit) else asked).append(document)
    return asked, rest


def columns_of(template: str) -> list[str]:
    """The columns that a template is filled from."""
    return _COLUMN.findall(template)


def normalise(text: str, task: ExactTask) -> str | None:
    """What of a text is compared: its extract, case, punctuation and white space as the task says. None: nothing to extract."""
    if task.extract is not None:
        matches = list(re.finditer(task.extract, text))
        if not matches:
            return None
        text = matches[-1][1 if matches[-1].re.groups else 0] or ""
    if task.ignore_case:
        text = text.casefold()
    if task.ignore_punctuation:
        text = text.translate(_PUNCTUATION)
    return " ".join(text.split())


def _reader(task: LocalTask) -> Callable[[Row], Row]:
    match task:
        case ChoicesTask():
            return lambda row: _choices(task, row)
        case LabelsTask():
            return lambda row: _labels(task, row)
        case ExactTask():
            return lambda row: _exact(task, row)
        case PairsTask():
            return lambda row: _pair(task, row)
        case LastWordTask():
            return lambda row: _last_word(task, row)


def _choices(task: ChoicesTask, row: Row) -> Row:
    named = task.choices
    choices = _column(row, named) if isinstance(named, str) else [_text(row, column) for column in named]
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c.strip() for c in choices):
        raise _Unfit(f"column {named!r} holds no list of two or more texts")
    gold = _place(_column(row, task.answer), choices, task)
    if choices.count(choices[gold]) > 1:
        raise _Unfit(f"the right choice {choices[gold]!r} stands there twice")
    return {"prompt": _fill(task.prompt, row), "choices": choices, "gold": gold}


def _labels(task: LabelsTask, row: Row) -> Row:
    gold = _place(_column(row, task.answer), task.labels, task)
    text = {} if task.text is None else {"text": _fill(task.text, row)}
    return {"prompt": _fill(task.prompt, row), "choices": task.labels, "gold": gold} | text


def _place(answer: Any, choices: Sequence[str], task: ChoicesTask | LabelsTask) -> int:
    """Where the right choice stands. An answer that could be read in two ways, such as "1", is refused."""
    readings: dict[str, int] = {}
    if isinstance(answer, bool) and isinstance(task, LabelsTask):
        # the text, where that is a label; else the second label is true
        answer = str(answer) if str(answer) in choices else int(answer)
    whole = answer if type(answer) is int else int(answer) if isinstance(answer, str) and answer.isdecimal() else None
    if whole is not None:
        readings["index"] = whole
        if isinstance(answer, str) or task.answer_is == "number":  # a whole number counts from 0 unless the task says
            readings["number"] = whole - 1
    if isinstance(answer, str) and len(answer) == 1 and "A" <= answer <= "Z":
        readings["letter"] = ord(answer) - ord("A")
    if isinstance(answer, str) and answer in choices:
        readings["text"] = choices.index(answer)
    wanted = [task.answer_is] if task.answer_is else list(readings)
    fitting = {name: readings[name] for name in wanted if name in readings and 0 <= readings[name] < len(choices)}
    if not fitting:
        sense = f" as {task.answer_is}" if task.answer_is else ""
        raise _Unfit(f"{task.answer!r} is {answer!r}, which{sense} names none of the {len(choices)} choices")
    if len(set(fitting.values())) > 1:
        senses = " or ".join(f"{name} ({choices[place]!r})" for name, place in fitting.items())
        raise _Unfit(f"{task.answer!r} is {answer!r}: {senses}? say which with `answer_is`")
    return next(iter(fitting.values()))


def _exact(task: ExactTask, row: Row) -> Row:
    value = _column(row, task.target)
    targets = [_plain(target, task.target) for target in (value if isinstance(value, list) else [value])]
    if not targets:
        raise _Unfit(f"column {task.target!r} is empty")
    for target in targets:
        if not normalise(target, task):
            raise _Unfit(f"nothing is left to compare of the target {target!r}")
    return {"prompt": _fill(task.prompt, row), "answer": targets[0], "targets": targets}


def _pair(task: PairsTask, row: Row) -> Row:
    good, bad = _text(row, task.good), _text(row, task.bad)
    if good == bad:
        raise _Unfit("both texts are the same")
    return {"good": good, "bad": bad}


def _last_word(task: LastWordTask, row: Row) -> Row:
    if task.text is None:
        return {"prompt": _fill(task.prompt, row), "answer": _text(row, task.target).strip()}
    before, _, word = _text(row, task.text).strip().rpartition(" ")
    if not before.strip():
        raise _Unfit(f"column {task.text!r} holds one word only")
    return {"prompt": before, "answer": word}


def _cluster(task: LocalTask, row: Row) -> Row:
    return {"cluster": _plain(_column(row, task.cluster), task.cluster)} if task.cluster else {}


def _fill(template: str, row: Row) -> str:
    return _COLUMN.sub(lambda match: _plain(_column(row, match[1]), match[1]), template)


def _column(row: Row, name: str) -> Any:
    if name not in row:
        raise _Unfit(f"no column {name!r} (it has: {', '.join(map(str, row)) or 'nothing'})")
    return row[name]


def _text(row: Row, name: str) -> str:
    value = _column(row, name)
    if not isinstance(value, str) or not value.strip():
        raise _Unfit(f"column {name!r} holds no text")
    return value


def _plain(value: Any, name: str) -> str:
    """A text, or a number as text."""
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise _Unfit(f"column {name!r} holds neither text nor number")


class _Places:
    """Finds the file and line of a row again; only asked when something is wrong."""

    def __init__(self, data: DataRef, where: str) -> None:
        self._rows: list[tuple[str, Mapping[str, Any]]] = []
        for path in [data.path] if isinstance(data.path, str) else data.path or []:
            read = read_rows(DataRef.model_validate({"path": path, "format": AS_THEY_ARE}), where=where)
            unit = "line" if has_lines(Path(path)) else "row"
            self._rows += [(f"{Path(path).name}, {unit} {number}", row) for number, row in read.rows]

    def of(self, row: Row) -> str:
        """Of equal rows the next one."""
        for index, (place, other) in enumerate(self._rows):
            if other == row:
                del self._rows[index]
                return place
        return "a row"
