"""A cell's log: `metrics.jsonl` for numbers and plain lines for people. Both survive a crash up to the last line."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from alignment.core.store import write_atomically


class Sink(Protocol):
    """Another place that gets a copy of every row of numbers: TensorBoard, for example."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None: ...

    def forget_after(self, step: int, last: int) -> None:
        """Rows past `step` will be written again; the last one so far was that of step `last`."""
        ...


class RunLog:
    def __init__(self, folder: Path, sink: Sink | None = None) -> None:
        self._metrics, self._sink = folder / "metrics.jsonl", sink

    def info(self, message: str) -> None:
        """One line for a person. The runner sends a cell's standard output to its `log.txt`."""
        print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stdout, flush=True)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append one row of numbers. Keys are `group/name`, for example `train/loss` or `rollout/kl`."""
        numbers = {key: (value if math.isfinite(value) else str(value)) for key, value in values.items()}
        append_rows(self._metrics, [{"step": step, "time": round(time.time(), 3), **numbers}])
        if self._sink is not None:
            self._sink.metrics(step, values)

    def rows(self) -> list[dict[str, float]]:
        """What was logged so far, `step` and `time` among the numbers. For a resumed stage: after `forget_after`."""
        if not self._metrics.exists():
            return []
        rows = map(json.loads, self._metrics.read_text(encoding="utf-8").splitlines())
        return [{key: float(value) for key, value in row.items()} for row in rows]  # "nan" was written as text

    def forget_after(self, step: int) -> None:
        """Drop rows past `step`: a resumed stage writes them again. A line cut by a crash is dropped too."""
        last = drop_rows_after(self._metrics, step)
        if self._sink is not None:
            self._sink.forget_after(step, last)


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One line of JSON for each row; rows have a `step`."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def drop_rows_after(path: Path, step: int) -> int:
    """Keep the rows up to `step`, and say what was the last step so far; -1 if there was none. A line cut by a crash goes."""
    if not path.exists():
        return -1
    steps = [(_step_of(line), line) for line in path.read_text(encoding="utf-8").splitlines()]
    write_atomically(path, "".join(line + "\n" for number, line in steps if number is not None and number <= step))
    return max((number for number, _ in steps if number is not None), default=-1)


def _step_of(line: str) -> int | None:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return None
