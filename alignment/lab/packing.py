"""Documents packed side by side into rows. Documents of a row do not see each other, and each starts at position 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignment.lab.corpus import Document

ROW_TOKENS = 64
PROMPT_WEIGHT = 0.2
_CHUNK = 10_000


@dataclass(frozen=True)
class Encoded:
    """Token ids of a document, EOS included; the first `prompt_length` of them are the prompt's."""

    ids: list[int]
    prompt_length: int


@dataclass(frozen=True)
class Batch:
    """input_ids[B, T]; weights[B, T]: what token t counts in the loss, 0 for padding and a document's first token;
    visible[B, 1, T, T]: True where the query (third axis) may look; positions[B, T]."""

    input_ids: Tensor
    weights: Tensor
    visible: Tensor
    positions: Tensor


def encode(documents: Iterator[Document], tokenizer: Any) -> Iterator[Encoded]:
    """Documents as token ids, chunk by chunk."""
    backend, end = tokenizer.backend_tokenizer, tokenizer.eos_token_id
    while chunk := list(islice(documents, _CHUNK)):
        prompts = backend.encode_batch_fast([document.prompt for document in chunk])
        answers = backend.encode_batch_fast([document.answer for document in chunk])
        for prompt, answer in zip(prompts, answers, strict=True):
            yield Encoded([*prompt.ids, *answer.ids, end], len(prompt.ids))


def pack(sequences: Iterator[Encoded], rows: int) -> Iterator[list[list[Encoded]]]:
    """Endless batches of `rows` rows, filled first-fit in the order of arrival."""
    batch, room = [[] for _ in range(rows)], [ROW_TOKENS] * rows
    for sequence in sequences:
        length = len(sequence.ids)
        row = next((row for row, free in enumerate(room) if free >= length), None)
        if row is None:
            yield batch
            batch, room, row = [[] for _ in range(rows)], [ROW_TOKENS] * rows, 0
        batch[row].append(sequence)
        room[row] -= length


def collate(rows: Sequence[Sequence[Encoded]], pad_id: int) -> Batch:
    """One batch as tensors."""
    shape = (len(rows), ROW_TOKENS)
    ids, weights = np.full(shape, pad_id, np.int64), np.zeros(shape, np.float32)
    owner, positions = np.full(shape, -1, np.int64), np.zeros(shape, np.int64)
    for r, row in enumerate(rows):
        start = 0
        for number, sequence in enumerate(row):
            answer, end = start + sequence.prompt_length, start + len(sequence.ids)
            ids[r, start:end], owner[r, start:end] = sequence.ids, number
            positions[r, start:end] = np.arange(end - start)
            weights[r, start + 1 : answer], weights[r, answer:end] = PROMPT_WEIGHT, 1.0
            start = end
    same = owner[:, None, :, None] == owner[:, None, None, :]
    visible = same & np.tri(ROW_TOKENS, dtype=bool)
    return Batch(*map(torch.from_numpy, (ids, weights, visible, positions)))
