"""A cell's log: `metrics.jsonl` for numbers and plain lines for people. Both survive a crash up to the last line."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

from alignment.core.store import write_atomically


class RunLog:
    def __init__(self, folder: Path) -> None:
        self._metrics = folder / "metrics.jsonl"

    def info(self, message: str) -> None:
        """One line for a person. The runner sends a cell's standard output to its `log.txt`."""
        print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stdout, flush=True)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Append one row of numbers. Keys are `group/name`, for example `train/loss` or `rollout/kl`."""
        row = {"step": step, "time": round(time.time(), 3)}
        row |= {key: (value if math.isfinite(value) else str(value)) for key, value in values.items()}
        with self._metrics.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop rows past `step`: a resumed stage writes them again. A line cut by a crash is dropped too."""
        if not self._metrics.exists():
            return
        kept = [line for line in self._metrics.read_text().splitlines() if _step_of(line) <= step]
        write_atomically(self._metrics, "".join(line + "\n" for line in kept))


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return math.inf
