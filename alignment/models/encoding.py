"""Rows as token ids, each with a mask of the tokens that bear loss (or that a reward model reads).

A prompt's ids are those that generation starts from (`alignment.data.chat.prompt_ids`), so training and sampling see
the same context; an answer ends in exactly one EOS.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from alignment.core.errors import DataError, ModelError
from alignment.data.chat import prompt_ids, require_chat_template
from alignment.data.rows import Row

OnLong = Literal["error", "truncate"]
_SHOWN = 5
_logger = logging.getLogger(__name__)


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


def encode_row(tokenizer: Any, row: Row) -> Encoded:
    """A row with `prompt` and `completion` (the answer counts), `messages` (each assistant turn counts) or `text` (all
    of it counts). `finished: false` in a row says that it was cut off, so no EOS is due."""
    append_eos = row.get("finished", True)
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


def fit(encoded: Iterable[Encoded], limit: int, on_long: OnLong, where: str) -> list[Encoded]:
    """The rows of `fitting`."""
    return [row for _, row in fitting(encoded, limit, on_long, where)]


def fitting(encoded: Iterable[Encoded], limit: int, on_long: OnLong, where: str) -> Iterator[tuple[int, Encoded]]:
    """Rows of at most `limit` tokens, each with something to learn from, and its place, counted from 0. Others are left out once they
    are truncated, and told.

    Raises DataError that lists the rows that are too long, when it has met them all, unless `on_long` says truncate.
    """
    long: list[int] = []
    empty: list[int] = []
    longest = kept = 0
    for place, row in enumerate(encoded):
        longest = max(longest, len(row.ids))
        if len(row.ids) > limit and on_long == "error":
            long.append(place + 1)
        elif (cut := row.cut(limit)).counted:
            kept += 1
            yield place, cut
        else:
            empty.append(place + 1)
    if long:
        raise _too_long(long, longest, limit, where)
    if not kept:
        raise _nothing_to_learn(where, limit)
    if empty:
        _logger.warning("%s: left out, as there is nothing to learn within %d tokens: %s", where, limit, listed(empty))


def fitting_pairs(first: Sequence[Encoded], second: Sequence[Encoded], limit: int, where: tuple[str, str]) -> list[int]:
    """Positions of the pairs that have something to learn on both sides; the others are to be dropped whole.

    where: the name of each side. Raises DataError that lists the rows that are longer than `limit` tokens.
    """
    for side, name in zip((first, second), where, strict=True):
        require_short([row.ids for row in side], limit, name)
    kept = [index for index, pair in enumerate(zip(first, second, strict=True)) if all(row.counted for row in pair)]
    if not kept:
        raise _nothing_to_learn(" or ".join(where), limit)
    return kept


def require_short(rows: Sequence[Sequence[int]], limit: int, where: str) -> None:
    """Raises DataError that lists the rows of more than `limit` tokens."""
    long = [number for number, ids in enumerate(rows, 1) if len(ids) > limit]
    if long:
        raise _too_long(long, max(map(len, rows)), limit, where)


def _too_long(rows: Sequence[int], longest: int, limit: int, where: str) -> DataError:
    return DataError(
        where,
        f"{listed(rows)}: longer than {limit} tokens (the longest has {longest})",
        "rows that fit max_length and the model's context",
        "shorten or split them, raise max_length, or set on_long: truncate where the stage has it",
    )


def _nothing_to_learn(where: str, limit: int) -> DataError:
    return DataError(where, f"no token to learn within {limit} tokens", "shorter prompts", "raise max_length")


def length_batches(lengths: Sequence[int], batch_tokens: int, most_rows: int | None = None) -> list[list[int]]:
    """Indices in batches of similar length, each of at most `batch_tokens` tokens with padding and `most_rows` rows (one row at
    least)."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        fits = batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= batch_tokens
        if fits and len(batches[-1]) != most_rows:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def listed(numbers: Sequence[int]) -> str:
    """`rows 3, 8 and 12 more`: which rows of a file are meant, counted from 1."""
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"row{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers[:_SHOWN]))}{more}"


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
