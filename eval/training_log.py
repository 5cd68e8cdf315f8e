"""Reading a training cell's `metrics.jsonl` for curves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Point = tuple[float, ...]


def read_metrics(path: Path | None) -> list[dict[str, Any]]:
    """Rows of `metrics.jsonl`, each with a numeric `step`; a line cut short by a crash is left out."""
    if path is None or not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and is_number(row.get("step")):
            rows.append(row)
    return rows


def columns(rows: Sequence[Mapping[str, Any]], *keys: str) -> list[Point]:
    """The values of `keys` in every row that has a finite number for each."""
    return [tuple(float(row[key]) for key in keys) for row in rows if all(is_number(row.get(key)) for key in keys)]


def thinned(points: list[Point], most: int) -> list[Point]:
    """Means over equal stretches, at most `most` of them."""
    if len(points) <= most:
        return points
    return [tuple(part.mean(0).tolist()) for part in np.array_split(np.array(points, float), most)]


def is_number(value: Any) -> bool:
    """A finite number: not a boolean, not the text that the log writes for NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
