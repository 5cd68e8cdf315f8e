"""The shapes in which people keep instruction and preference data, told by their columns and turned into the suite's own rows.

Own rows hold `prompt` and `completion`, `messages`, `text`, `prompt` with `chosen` and `rejected`, or `prompt`, `completion` and
`label`; they pass as they are. Prompts and messages are text or lists of `{role, content}`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

Row = dict[str, Any]
Message = dict[str, str]

AS_THEY_ARE = "as they are"
_ROLES = {
    "human": "user", "user": "user", "prompter": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "model": "assistant", "assistant": "assistant", "system": "system", "tool": "tool",
}  # fmt: skip
_COLUMN = re.compile(r"\{([^{}]+)\}")
_LABELS: tuple[tuple[bool, tuple[str, ...]], ...] = (
    (True, ("true", "1", "1.0", "yes", "good", "chosen", "desirable")),
    (False, ("false", "0", "0.0", "no", "bad", "rejected", "undesirable")),
)
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ALPACA = (
    "Below is an instruction that describes a task{more}. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n{context}### Response:\n"
)  # Taori et al. 2023


@dataclass(frozen=True)
class Format:
    """columns: what one row has to hold, as alternatives. convert: a row as own rows; raises ValueError, in words for the user,
    for a row that cannot be read. asked: only used where a recipe names it, never found by itself."""

    name: str
    about: str
    columns: tuple[tuple[str, ...], ...]
    convert: Callable[[Row], list[Row]]
    asked: bool = False

    def fits(self, row: Row) -> bool:
        return any(all(name in row for name in names) for names in self.columns)


def detect(row: Row) -> Format | None:
    """The first format that fits a row's columns; None for a row that is none of them."""
    return next((shape for shape in FORMATS if not shape.asked and shape.fits(row)), None)


def renamed(row: Row, columns: Mapping[str, str]) -> Row:
    """columns: {our name: theirs}. Raises ValueError if theirs is not there."""
    missing = [theirs for theirs in columns.values() if theirs not in row]
    if missing:
        raise ValueError(f"no column {missing[0]!r} (it has: {', '.join(map(str, row)) or 'nothing'})")
    taken = set(columns.values())
    return {name: row[theirs] for name, theirs in columns.items()} | {
        name: value for name, value in row.items() if name not in taken and name not in columns
    }


def named(row: Row, values: Mapping[str, Sequence[str]]) -> Row:
    """values: {column: what its numbers stand for, from 0 on}. Raises ValueError for a number that stands for nothing."""
    found = dict(row)
    for column, names in values.items():
        number = _number(row.get(column))
        if not number.isdecimal() or int(number) >= len(names):
            raise ValueError(f"{column} is {row.get(column)!r}, not a number from 0 to {len(names) - 1}")
        found[column] = names[int(number)]
    return found


def _whole_number(value: Any) -> Any:
    """1 for the 1.0 that tables with gaps make of it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _number(value: Any) -> str:
    """A whole number as it may stand in a file; true and false are 1 and 0."""
    return str(int(value) if isinstance(value, bool) else _whole_number(value)).strip()


def written(row: Row, template: Mapping[str, str]) -> Row:
    """template: {column: text with the row's columns in braces}; no other column stays. Raises ValueError if one is not there."""

    def said(match: re.Match[str]) -> str:
        if not isinstance(value := row.get(match[1]), str | int | float):
            raise ValueError(f"no text in column {match[1]!r} (it has: {', '.join(map(str, row)) or 'nothing'})")
        return str(value)

    return {name: _COLUMN.sub(said, text) for name, text in template.items()}


def _same(row: Row) -> list[Row]:
    return [row]


def _labelled(row: Row) -> list[Row]:
    """KTO: an answer and whether it is good, which CSV has no booleans to say."""
    label = row["label"]
    said = str(label).strip().lower()
    found = [good for good, words in _LABELS if said in words]
    if not found:
        raise ValueError(f"label {label!r} says neither good nor bad")
    return [row | {"label": found[0]}]


def _labelled_text(row: Row) -> list[Row]:
    label = _whole_number(row["label"])
    return [row | {"label": label.strip() if isinstance(label, str) else label}]


def _alpaca(row: Row) -> list[Row]:
    """As a conversation: system, earlier turns, instruction with its input."""
    messages: list[Message] = []
    if _optional(row, "system"):
        messages.append(_message("system", row["system"]))
    history = row.get("history") or []
    for turn in history if isinstance(history, list | tuple) else [history]:
        if not isinstance(turn, list | tuple) or len(turn) != 2:
            raise ValueError("history holds what is no pair of question and answer")
        messages += [_message("user", turn[0]), _message("assistant", turn[1])]
    given = _optional(row, "input")
    question = _text(row, "instruction") + (f"\n\n{given}" if given else "")
    answer = _text(row, "output")
    return [{"prompt": [*messages, _message("user", question)], "completion": [_message("assistant", answer)]}]


def _alpaca_template(row: Row) -> list[Row]:
    """As plain text in the template of the Alpaca paper, for models without a chat template."""
    if _optional(row, "system") or row.get("history"):
        raise ValueError("the template of Alpaca has no place for system or history; use format alpaca")
    given = _optional(row, "input")
    more = ", paired with an input that provides further context" if given else ""
    context = f"### Input:\n{given}\n\n" if given else ""
    prompt = _ALPACA.format(more=more, instruction=_text(row, "instruction"), context=context)
    return [{"prompt": prompt, "completion": _text(row, "output")}]


def _seed_tasks(row: Row) -> list[Row]:
    """Self-Instruct's seed tasks: one instruction with several instances."""
    if not isinstance(row["instances"], list) or not row["instances"]:
        raise ValueError("instances is no list of input and output")
    return [own for instance in row["instances"] for own in _alpaca({"instruction": row["instruction"], **instance})]


def _sharegpt(row: Row) -> list[Row]:
    turns = row["conversations"]
    if not isinstance(turns, list) or not turns:
        raise ValueError("conversations is no list of turns")
    messages = []
    for turn in turns:
        who, said = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if who is None and isinstance(turn, dict):
            who, said = turn.get("role"), turn.get("content")
        if str(who).lower() not in _ROLES:
            raise ValueError(f"a turn by {who!r}, who is none of {', '.join(_ROLES)}")
        messages.append(_message(_ROLES[str(who).lower()], said))
    if _optional(row, "system"):
        messages.insert(0, _message("system", row["system"]))
    return [{"messages": _checked(messages)}]


def _question(row: Row) -> list[Row]:
    asked, answer = _text(row, "question"), _text(row, "answer")
    return [{"prompt": [_message("user", asked)], "completion": [_message("assistant", answer)]}]


def _transcripts(row: Row) -> list[Row]:
    """HH-RLHF: two whole conversations that differ in the assistant's last turn."""
    chosen, rejected = (_turns(row[side], side) for side in ("chosen", "rejected"))
    return [_pair(chosen, rejected)]


def _message_pairs(row: Row) -> list[Row]:
    """UltraFeedback: two lists of messages that differ in the last."""
    sides = []
    for side in ("chosen", "rejected"):
        turns = row[side] if isinstance(row[side], list) else [None]
        messages = [_message(m.get("role"), m.get("content")) if isinstance(m, dict) else None for m in turns]
        if None in messages or not messages:
            raise ValueError(f"{side} holds what is no message")
        sides.append(messages)
    if len(sides[0]) == 1 and isinstance(row.get("prompt"), str):
        return [
            {
                "prompt": [_message("user", row["prompt"])],
                "chosen": sides[0][0]["content"],
                "rejected": sides[1][0]["content"],
            }
        ]
    return [_pair(*sides)]


def _pair(chosen: list[Message], rejected: list[Message]) -> Row:
    """The common beginning is the prompt."""
    if chosen[:-1] != rejected[:-1]:
        raise ValueError("chosen and rejected differ before their last turn")
    if chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        raise ValueError("the last turn is not the assistant's")
    if len(chosen) < 2:
        raise ValueError("there is no prompt before the answer")
    return {"prompt": _checked(chosen[:-1]), "chosen": chosen[-1]["content"], "rejected": rejected[-1]["content"]}


def _compared(first: str, second: str, label: str) -> Callable[[Row], list[Row]]:
    """Two answers and which of them is better."""

    def convert(row: Row) -> list[Row]:
        better = _better(row[label])
        chosen, rejected = (first, second) if better == 0 else (second, first)
        prompt = next((row[name] for name in ("prompt", "instruction", "question", "query") if row.get(name)), None)
        if not isinstance(prompt, str | list):
            raise ValueError("no prompt, instruction or question")
        question = prompt if isinstance(prompt, list) else [_message("user", prompt)]
        return [{"prompt": question, "chosen": _text(row, chosen), "rejected": _text(row, rejected)}]

    return convert


def _better(label: Any) -> int:
    """0: the first answer, 1: the second."""
    words = {
        "0": 0,
        "1": 1,
        "a": 0,
        "b": 1,
        "first": 0,
        "second": 1,
        "model_a": 0,
        "model_b": 1,
        "response_a": 0,
        "response_b": 1,
    }
    found = words.get(
        str(int(label)) if isinstance(label, bool | int | float) and label in (0, 1) else str(label).lower()
    )
    if found is None:
        raise ValueError(f"{label!r} says of neither answer that it is better")
    return found


def _turns(text: Any, side: str) -> list[Message]:
    if not isinstance(text, str):
        raise ValueError(f"{side} is no text")
    parts = _TURN.split(text if text.startswith("\n\n") else f"\n\n{text.lstrip()}")
    if parts[0].strip() or len(parts) < 3:
        raise ValueError(f"{side} does not begin with a turn of Human or Assistant")
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return [{"role": "user" if who == "Human" else "assistant", "content": said.strip()} for who, said in pairs]


def _checked(messages: list[Message]) -> list[Message]:
    """After a system message user and assistant take turns."""
    turns = [message["role"] for message in messages if message["role"] in ("user", "assistant")]
    if "system" in [message["role"] for message in messages[1:]]:
        raise ValueError("a system message after the first place")
    if turns and turns[0] != "user":
        raise ValueError("the assistant speaks first")
    if any(left == right for left, right in pairwise(turns)):
        raise ValueError("two turns of the same speaker in a row")
    if not all(message["content"].strip() for message in messages):
        raise ValueError("an empty turn")
    return messages


def _message(role: Any, content: Any) -> Message:
    if not isinstance(content, str):
        raise ValueError(f"a turn holds {type(content).__name__}, not text")
    return {"role": str(role), "content": content}


def _text(row: Row, name: str) -> str:
    if not isinstance(row[name], str) or not row[name].strip():
        raise ValueError(
            f"{name} is {'empty' if not row[name] or isinstance(row[name], str) else type(row[name]).__name__}"
        )
    return row[name]


def _optional(row: Row, name: str) -> str:
    """Empty where there is none. A number is what it says."""
    value = row.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int | float)):
        raise ValueError(f"{name} is {type(value).__name__}")
    return "" if value is None else str(value)


class _Pairs(Format):
    """chosen and rejected without a prompt column: transcripts or messages, by what they hold."""

    def fits(self, row: Row) -> bool:
        own = isinstance(row.get("prompt"), list)  # then the answers are what follows it
        return super().fits(row) and not own and isinstance(row["chosen"], list) == (self.name == "message pairs")


_OWN = (
    Format("preferences", "prompt, chosen, rejected", (("prompt", "chosen", "rejected"),), _same),
    Format("labelled answers", "prompt, completion, label", (("prompt", "completion", "label"),), _labelled),
    Format("prompt and completion", "prompt, completion", (("prompt", "completion"),), _same),
    Format("messages", "chat messages", (("messages",),), _same),
)
_COMPARED = (
    ("response_0", "response_1", "better_response_id"),
    ("answer_a", "answer_b", "winner"),
    ("response_a", "response_b", "winner"),
    ("response_a", "response_b", "label"),
)
_INSTRUCTION = (("instruction", "output"),)
_SIDES = (("chosen", "rejected"),)
FORMATS: tuple[Format, ...] = (
    _Pairs("message pairs", "chosen and rejected conversations", _SIDES, _message_pairs),
    *_OWN,
    _Pairs("transcripts", "HH-RLHF: chosen and rejected as text of Human and Assistant", _SIDES, _transcripts),
    *(Format("two answers", ", ".join(names), (names,), _compared(*names)) for names in _COMPARED),
    Format("sharegpt", "conversations of from and value", (("conversations",),), _sharegpt),
    Format("seed tasks", "instruction, instances of input and output", (("instruction", "instances"),), _seed_tasks),
    Format("alpaca", "instruction, input, output, system, history", _INSTRUCTION, _alpaca),
    Format("alpaca template", "alpaca as plain text in the paper's template", _INSTRUCTION, _alpaca_template, True),
    Format("question and answer", "question, answer", (("question", "answer"),), _question),
    Format(AS_THEY_ARE, "no conversion", ((),), _same, True),
    Format("labelled texts", "text, label", (("text", "label"),), _labelled_text),
    Format("text", "plain text", (("text",),), _same),
    Format("prompts", "prompt", (("prompt",),), _same),
)
NAMES = tuple(dict.fromkeys(shape.name for shape in FORMATS))
