"""Rows as token ids, each with a mask of the tokens that bear loss (or that a reward model reads).

A prompt's ids are those that generation starts from (`alignment.data.chat.prompt_ids`), so training and sampling see
the same context; an answer ends in exactly one EOS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alignment.core.errors import DataError, ModelError
from alignment.data.chat import prompt_ids, require_chat_template
from alignment.data.rows import Row


@dataclass(frozen=True)
class Encoded:
    """ids and mask have the same length; mask: True = this token counts."""

    ids: list[int]
    mask: list[bool]

    @property
    def counted(self) -> int:
        """Tokens that bear loss: the first of a sequence has nothing before it to be predicted from."""
        return sum(self.mask[1:])

    def cut(self, length: int) -> Encoded:
        return Encoded(self.ids[:length], self.mask[:length])


def encode_row(tokenizer: Any, row: Row, append_eos: bool = True) -> Encoded:
    """A row with `prompt` and `completion` (the answer counts), `messages` (each assistant turn counts) or `text` (all
    of it counts)."""
    if "completion" in row:
        return encode_answer(tokenizer, row["prompt"], row["completion"], append_eos)
    if "messages" in row:
        return _encode_turns(tokenizer, row["messages"], 0, append_eos)
    ids = list(tokenizer(row["text"])["input_ids"])
    ids = _one_eos(ids, tokenizer.eos_token_id, keep=1) if append_eos else ids
    return Encoded(ids, [True] * len(ids))


def encode_answer(
    tokenizer: Any, prompt: str | Sequence[Row], answer: str | Sequence[Row], append_eos: bool = True
) -> Encoded:
    """Prompt and answer, both plain text or the prompt a list of messages; the answer's tokens count.

    append_eos: False for an answer that was cut off and so does not end.
    """
    if not isinstance(prompt, str):
        turns = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else list(answer)
        return _encode_turns(tokenizer, [*prompt, *turns], len(prompt), append_eos)
    if not isinstance(answer, str):
        raise DataError("data", "a plain-text prompt with messages as its answer", "both text, or both messages", "")
    start = prompt_ids(tokenizer, prompt)
    whole = list(tokenizer(prompt + answer)["input_ids"])
    if whole[: len(start)] != start:  # prompt and answer merge into one token: keep the prompt that generation will see
        whole = start + list(tokenizer(answer, add_special_tokens=False)["input_ids"])
    return _with_mask(tokenizer, whole, [(len(start), len(whole))], append_eos)


def _encode_turns(tokenizer: Any, messages: Sequence[Row], first: int, append_eos: bool) -> Encoded:
    """Messages by the chat template; the assistant's turns from index `first` on count."""
    require_chat_template(tokenizer)
    whole = _render(tokenizer, messages)
    spans = []
    for index in range(first, len(messages)):
        if messages[index]["role"] != "assistant":
            continue
        start, end = prompt_ids(tokenizer, messages[:index]), _render(tokenizer, messages[: index + 1])
        if whole[: len(start)] != start or whole[: len(end)] != end:
            raise ModelError(
                tokenizer.name_or_path,
                "its chat template renders the beginning of a conversation differently once more follows",
                "a template under which a conversation only grows",
                "give rows with one answer each, or another chat template",
            )
        spans.append((len(start), len(end)))
    return _with_mask(tokenizer, whole, spans, append_eos)


def _render(tokenizer: Any, messages: Sequence[Row]) -> list[int]:
    return list(tokenizer.apply_chat_template(list(messages), return_dict=True)["input_ids"])


def _with_mask(tokenizer: Any, ids: list[int], spans: list[tuple[int, int]], append_eos: bool) -> Encoded:
    """The last span is the last answer: it gets one EOS, or none, and what a template puts after it is dropped."""
    if not spans:
        raise DataError("data", "messages without an assistant turn", "at least one turn with role assistant", "")
    start, end = spans[-1]
    ids = ids[:end]
    ids = _one_eos(ids, tokenizer.eos_token_id, start) if append_eos else _no_eos(ids, tokenizer.eos_token_id, start)
    mask = [False] * len(ids)
    for begin, stop in [*spans[:-1], (start, len(ids))]:
        mask[begin:stop] = [True] * (stop - begin)
    return Encoded(ids, mask)


def _one_eos(ids: list[int], eos: int, keep: int) -> list[int]:
    """Ends at the first EOS from position `keep` on, appended if there is none."""
    return [*_no_eos(ids, eos, keep), eos]


def _no_eos(ids: list[int], eos: int, keep: int) -> list[int]:
    return ids[: ids.index(eos, keep)] if eos in ids[keep:] else ids
