"""The files of a `win_rate` cell: `pairs.parquet`, one row per prompt, and `win_rate.json`, how they came about."""

from __future__ import annotations

import pyarrow as pa

PAIRS, ABOUT = "pairs.parquet", "win_rate.json"
SCHEMA = pa.schema(
    [
        ("prompt_hash", pa.string()),  # with the row's number, the key by which seeds pair
        ("prompt", pa.string()),
        ("reference_answer", pa.string()),
        ("new_answer", pa.string()),
        ("reference_finished", pa.bool_()),  # ended by itself, not by the limit
        ("new_finished", pa.bool_()),
        ("reference_score", pa.float64()),  # by judges that score
        ("new_score", pa.float64()),
        ("verdict_reference_first", pa.string()),  # by judges that are shown both: reference, new, tie or none
        ("verdict_new_first", pa.string()),
        ("reply_reference_first", pa.string()),
        ("reply_new_first", pa.string()),
        ("win", pa.float64()),  # 1 new, 0 reference, 0.5 a tie; none = no verdict
    ]
)
