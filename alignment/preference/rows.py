"""Preference rows as token ids, and batches of them as trl's losses expect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from alignment.core.errors import DataError
from alignment.data.rows import Row
from alignment.models.encoding import Encoded, encode_answer, fit, fitting_pairs, listed


def encoded_pairs(tokenizer: Any, rows: Sequence[Row], limit: int, where: str) -> list[dict[str, Any]]:
    """Chosen and rejected answers with their prompts, as columns of one table. Raises DataError for rows that are too long."""
    chosen, rejected = (
        [encode_answer(tokenizer, row["prompt"], row[side], row.get(f"{side}_finished", True)) for row in rows]
        for side in ("chosen", "rejected")
    )
    kept = fitting_pairs(chosen, rejected, limit, (f"{where}, chosen", f"{where}, rejected"))
    return [_columns("chosen", chosen[i]) | _columns("rejected", rejected[i]) for i in kept]


def encoded_answers(tokenizer: Any, rows: Sequence[Row], limit: int, where: str) -> list[dict[str, Any]]:
    """Answers with their prompts and labels; a pair makes a good and a bad one. Raises DataError for a label that is none."""
    singles = [single for number, row in enumerate(rows, 1) for single in _singles(row, number, where)]
    labels = [label for _, label, _ in singles]
    if len(set(labels)) < 2:
        what = f"all {len(labels)} answers are {'good' if labels[0] else 'bad'}"
        raise DataError(where, what, "good and bad ones", "add rows with the other label")
    encoded = [
        encode_answer(tokenizer, row["prompt"], answer, row.get(f"{name}_finished", row.get("finished", True)))
        for row, _, (name, answer) in singles
    ]
    fit(encoded, limit, "error", where)
    return [
        _columns("answer", one) | {"label": label} for one, label in zip(encoded, labels, strict=True) if one.counted
    ]


def _singles(row: Row, number: int, where: str) -> list[tuple[Row, bool, tuple[str, Any]]]:
    if "completion" not in row:
        return [(row, True, ("chosen", row["chosen"])), (row, False, ("rejected", row["rejected"]))]
    if row.get("label") not in (True, False):
        raise DataError(
            where, f"{listed([number])}: label is {row.get('label')!r}", "true (a good answer) or false", "mend it"
        )
    return [(row, bool(row["label"]), ("completion", row["completion"]))]


def _columns(side: str, encoded: Encoded) -> dict[str, Any]:
    return {f"{side}_ids": encoded.ids, f"{side}_mask": encoded.mask}


def collate_pairs(rows: Sequence[Mapping[str, Any]], pad: int) -> dict[str, Tensor]:
    """First all chosen answers, then all rejected ones: `[2 B, T]` input_ids, attention_mask and completion_mask."""
    return _padded([(row[f"{side}_ids"], row[f"{side}_mask"]) for side in ("chosen", "rejected") for row in rows], pad)


def collate_answers(rows: Sequence[Mapping[str, Any]], pad: int) -> dict[str, Tensor]:
    """Answers `[B, T]` with their labels `[B]`; and for the estimate of the KL each prompt with the answer to the one before it
    in the batch (KTO, section 4.1): the same names with `KL_` in front."""
    own = [(row["answer_ids"], row["answer_mask"]) for row in rows]
    others = [_exchange(ids, mask, *own[index - 1]) for index, (ids, mask) in enumerate(own)]
    strange = {f"KL_{name}": tensor for name, tensor in _padded(others, pad).items()}
    return _padded(own, pad) | strange | {"label": torch.tensor([row["label"] for row in rows])}


def _exchange(
    ids: list[int], mask: list[bool], other: list[int], other_mask: list[bool]
) -> tuple[list[int], list[bool]]:
    """The prompt of the first with the answer of the second."""
    prompt, answer = ids[: mask.index(True)], other[other_mask.index(True) :]
    return prompt + answer, [False] * len(prompt) + [True] * len(answer)


def _padded(rows: Sequence[tuple[list[int], list[bool]]], pad: int) -> dict[str, Tensor]:
    """On the right."""
    width = max(len(ids) for ids, _ in rows)
    return {
        "input_ids": torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows]),
        "completion_mask": torch.tensor([[int(m) for m in mask] + [0] * (width - len(mask)) for _, mask in rows]),
    }
