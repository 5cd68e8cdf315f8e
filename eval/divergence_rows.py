"""`divergence.parquet`, beside `items.parquet`: one row per sequence that a model's KL to a reference was measured on.

`kl` is the sum over the sequence's positions, in nats, and `tokens` counts those positions; eval/divergence.py says what is summed.
`inputs` is target or retained, `direction` forward or reverse. `doc_id` is the row's place in its data set, `doc_hash` a digest of
what it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FILE = "divergence.parquet"
SCHEMA = pa.schema(
    [
        ("reference", pa.string()),
        ("inputs", pa.string()),
        ("direction", pa.string()),
        ("doc_id", pa.int64()),
        ("doc_hash", pa.string()),
        ("kl", pa.float64()),
        ("tokens", pa.int64()),
    ]
)
Row = dict[str, Any]
Key = tuple[str, str, str]  # reference, inputs, direction


def by_key(rows: Sequence[Row]) -> dict[Key, list[Row]]:
    """The rows of each thing that was measured, in order of their documents."""
    found: dict[Key, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["doc_id"]):
        found.setdefault((row["reference"], row["inputs"], row["direction"]), []).append(row)
    return found


def write_rows(rows: Sequence[Row], folder: Path) -> None:
    """Into the folder of an evaluation."""
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), folder / FILE)


def read_rows(folder: Path) -> list[Row]:
    """From the folder of an evaluation; empty where no divergence was asked for."""
    return pq.read_table(folder / FILE, schema=SCHEMA).to_pylist() if (folder / FILE).is_file() else []
