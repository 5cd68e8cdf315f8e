"""The rows to train on: tokenised once, into a file of which memory holds only what is read; mixed, replayed and put in order as
indices into it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from trl.data_utils import pack_dataset

from alignment.core.artifact import Artifact
from alignment.core.config import DataRef
from alignment.core.context import Context, derive_seed
from alignment.data.mixture import MixedRef, counts
from alignment.data.order import Endless
from alignment.data.stream import LEARNABLE, Reading
from alignment.models.encoding import Encoded, encode_row, fitting
from alignment.sft.config import SFTConfig

IGNORED = -100
_SCHEMA = pa.schema({"input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32()), "column": pa.float64()})
_BATCH = 1000  # rows in memory while a file is written


@dataclass(frozen=True)
class Rows:
    """dataset: `input_ids` and `labels` of N rows. lengths[N]: their tokens; counted[N]: those that bear loss; column[N]: the number
    that `order` goes by, NaN without. parts: of a mixture, how many rows and loss-bearing tokens each part gives."""

    dataset: datasets.Dataset
    lengths: np.ndarray
    counted: np.ndarray
    column: np.ndarray
    parts: Mapping[str, Mapping[str, int]] | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, places: np.ndarray) -> Rows:
        """The rows at these places, in this order."""
        dataset = self.dataset.select(places)
        return Rows(dataset, self.lengths[places], self.counted[places], self.column[places], self.parts)


def joined(several: list[Rows]) -> Rows:
    """One after the other."""
    dataset = datasets.concatenate_datasets([rows.dataset for rows in several])
    lengths, counted, column = (
        np.concatenate([getattr(rows, name) for rows in several]) for name in ("lengths", "counted", "column")
    )
    return Rows(dataset, lengths, counted, column)


def sequences(rows: Rows, limit: int, packing: bool) -> datasets.Dataset:
    """A row each; or, packed, several rows of at most `limit` tokens together, isolated from each other (best fit decreasing)."""
    if not packing:
        return rows.dataset
    return pack_dataset(rows.dataset.select_columns(["input_ids", "labels"]), limit, "bfd")


@dataclass(frozen=True)
class Reader:
    """Reads what a stage's references name. limit: tokens of a row at most."""

    config: SFTConfig
    tokenizer: Any
    limit: int
    inputs: Mapping[str, Artifact]
    context: Context

    def training(self) -> Rows:
        """The rows to learn, and after them as many of earlier data as `replay.share` asks for; those are drawn once."""
        rows, replay = self.read(self.config.data, "data"), self.config.replay
        if replay is None:
            return rows
        old = self.read(replay.data, "replay.data")
        count = round(len(rows) * replay.share / (1 - replay.share))
        self.context.log.info(f"{len(rows)} rows to learn, {count} to replay of {len(old)}")
        replayed = old.take(_drawn(len(old), count, self.context.seed_for("replay")))
        return replace(joined([rows, replayed]), parts=rows.parts)

    def read(self, ref: MixedRef, name: str) -> Rows:
        """All rows of one reference. Raises DataError for those that cannot be used."""
        if ref.mixture is None:
            return self._tokenised(ref, name)
        read = {part: self._tokenised(source, f"{name}.mixture.{part}") for part, source in sorted(ref.mixture.items())}
        wanted = counts(ref, {part: len(rows) for part, rows in read.items()}, name)
        seed = self.context.seed_for(f"mixture of {name}")
        taken = {
            part: rows.take(_drawn(len(rows), wanted[part], derive_seed(seed, part))) for part, rows in read.items()
        }
        for part, rows in taken.items():
            share, passes = len(rows) / sum(wanted.values()), len(rows) / len(read[part])
            self.context.log.info(
                f"{name}: {len(rows):,} rows of {part}, {share:.1%} of all, {passes:.2f} times through it"
            )
        parts = {part: {"rows": len(rows), "tokens": int(rows.counted.sum())} for part, rows in taken.items()}
        return replace(joined(list(taken.values())), parts=parts)

    def _tokenised(self, ref: DataRef, name: str) -> Rows:
        path = self.context.scratch / "tokens" / f"{name}.arrow"
        if not path.exists():  # else an interrupted run left it, whole
            _write(self._encoded(ref, name), path)
        return _opened(path)

    def _encoded(self, ref: DataRef, name: str) -> Iterator[tuple[Encoded, float]]:
        """Rows as token ids, each with its number in the column that `order` goes by."""
        order = self.config.order if not name.startswith("validation") else None
        column = order.column if order is not None else None
        rows = Reading(ref, self.inputs.get(name), name, column).usable(LEARNABLE)
        numbers: list[float] = []

        def encoded() -> Iterator[Encoded]:
            for row in rows:
                numbers.append(float(row[column]) if column is not None else np.nan)
                yield encode_row(self.tokenizer, row)

        for place, row in fitting(encoded(), self.limit, self.config.on_long, name):
            self.context.progress.update(place, 0, f"tokenising {name}")
            yield row, numbers[place]


def _drawn(rows: int, count: int, seed: int) -> np.ndarray:
    """So many places, each row once before any comes again."""
    order = Endless(rows, seed)
    return np.fromiter((order[place] for place in range(count)), np.int64, count)


def _write(rows: Iterable[tuple[Encoded, float]], path: Path) -> None:
    """An Arrow file, there only when it is whole."""
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_stream(file, _SCHEMA) as writer:
        rows = iter(rows)
        while batch := list(islice(rows, _BATCH)):
            columns = (
                [row.ids for row, _ in batch],
                [_labels(row) for row, _ in batch],
                [number for _, number in batch],
            )
            writer.write_batch(pa.RecordBatch.from_pydict(dict(zip(_SCHEMA.names, columns, strict=True)), _SCHEMA))
    partial.rename(path)


def _labels(row: Encoded) -> list[int]:
    """The first token has nothing before it to be predicted from."""
    counts = [False, *row.mask[1:]]
    return [token if counted else IGNORED for token, counted in zip(row.ids, counts, strict=True)]


def _opened(path: Path) -> Rows:
    """A written file, mapped into memory."""
    dataset = datasets.Dataset.from_file(str(path))
    lengths, counted = [], []
    for labels in dataset.data.column("labels").chunks:
        ends, values = labels.offsets.to_numpy(), labels.values.to_numpy()
        sums = np.concatenate([[0], np.cumsum(values != IGNORED)])
        lengths.append(np.diff(ends))
        counted.append(np.diff(sums[ends]))
    column = dataset.data.column("column").to_numpy()
    return Rows(dataset, np.concatenate(lengths), np.concatenate(counted), column)
