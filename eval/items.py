"""`items.parquet`: one row per scored item, from which every number of a report can be recomputed.

Pairing key: (task, filter, doc_id, doc_hash, prompt_hash). `score` is the item's value of the task's metric: 0/1 for accuracy and
exact match, gold in its own range. For bits per byte a row is one document: `log_likelihood` in nats and `bytes` are kept, and
the metric is the ratio of their sums. Where a prompt has several sampled answers, `samples` holds them all, `score` is the mean of
their scores, `output` the first and `length` the mean length, rounded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

SCHEMA = pa.schema(
    [
        ("stage", pa.string()),
        ("seed", pa.int64()),
        ("task", pa.string()),
        ("filter", pa.string()),
        ("metric", pa.string()),
        ("doc_id", pa.int64()),
        ("doc_hash", pa.string()),
        ("prompt_hash", pa.string()),
        ("target_hash", pa.string()),
        ("cluster", pa.string()),
        ("score", pa.float64()),
        ("choice_lls", pa.list_(pa.float64())),
        ("gold_choice", pa.int64()),
        ("log_likelihood", pa.float64()),
        ("bytes", pa.int64()),
        ("prompt", pa.string()),
        ("output", pa.string()),
        ("samples", pa.list_(pa.string())),
        ("target", pa.string()),
        ("length", pa.int64()),
        ("truncated", pa.bool_()),
    ]
)


def in_schema(rows: pa.Table) -> pa.Table:
    """The columns above in their order and types; one that an older evaluation did not write is empty."""
    for field in SCHEMA:
        if field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    return rows.select(SCHEMA.names).cast(SCHEMA)


def value_of(items: Sequence[Mapping[str, Any]]) -> float:
    """Mean score; for bits per byte - sum of log-likelihoods / (ln 2 * sum of bytes), not the mean over documents."""
    if items[0]["metric"] == "bits_per_byte":
        return -math.fsum(i["log_likelihood"] for i in items) / (math.log(2) * sum(i["bytes"] for i in items))
    return math.fsum(item["score"] for item in items) / len(items)
