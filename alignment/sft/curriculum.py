"""The order of a curriculum: rows by their length, by a number that they hold, or by how hard a reference model finds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.core.errors import ModelError
from alignment.models.encoding import length_batches
from alignment.models.load import load_causal_lm, load_tokenizer
from alignment.sft.config import SFTConfig
from alignment.sft.rows import IGNORED, Rows

_BATCH_TOKENS = 8192
_CHUNK = 2048  # rows, among which batches of similar length are made


def ordered(rows: Rows, config: SFTConfig, inputs: Mapping[str, Artifact], context: Context, tokenizer: Any) -> Rows:
    """The rows from small values to large, or the reverse, as `config.order` says; equal ones as they stand.

    Raises ModelError for a reference model that reads other tokens.
    """
    order = config.order
    assert order is not None
    met = (config.steps or len(rows)) * config.batch_size * config.gradient_accumulation
    if met < len(rows):
        context.log.info(f"{config.steps} steps end before the last {len(rows) - met:,} of {len(rows):,} ordered rows")
    values = {"length": rows.lengths, "column": rows.column}.get(order.by)
    if values is None:
        values = _remembered_losses(rows, inputs["order.model"], context, tokenizer)
    return rows.take(np.argsort(-values if order.descending else values, kind="stable"))


def _remembered_losses(rows: Rows, model: Artifact, context: Context, tokenizer: Any) -> np.ndarray:
    """A resumed run takes those of the run before it: computed anew on other threads, near ties might change places."""
    path = context.scratch / "losses.npy"
    if not path.exists():
        if load_tokenizer(model.path).get_vocab() != tokenizer.get_vocab():
            what = f"{model.path} reads other tokens than the model that is trained"
            raise ModelError("order.model", what, "the same tokenizer", "name the base model, or one made from it")
        partial = path.with_suffix(".partial.npy")
        np.save(partial, mean_losses(load_causal_lm(model.path).eval(), rows, context))
        partial.rename(path)
    return np.load(path)


def mean_losses(model: Any, rows: Rows, context: Context) -> np.ndarray:
    """[N]: the mean of -log p over the tokens of each row that bear loss, in nats."""
    found = np.empty(len(rows))
    for start in range(0, len(rows), _CHUNK):
        context.progress.update(start, len(rows), "finding an order")
        chunk = rows.dataset[start : start + _CHUNK]
        lengths = rows.lengths[start : start + _CHUNK].tolist()
        for batch in length_batches(lengths, _BATCH_TOKENS):
            ids = _padded([chunk["input_ids"][place] for place in batch], 0)
            labels = _padded([chunk["labels"][place] for place in batch], IGNORED)
            with torch.no_grad():  # padding is on the right, where nothing before it sees it
                logits = model(ids).logits[:, :-1].float()
            nll = cross_entropy(logits.transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="none")
            found[[start + place for place in batch]] = nll.sum(1) / rows.counted[[start + place for place in batch]]
    return found


def _padded(rows: Sequence[list[int]], value: int) -> torch.Tensor:
    """[B, T], on the right."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)
