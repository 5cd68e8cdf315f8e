"""What a stage receives beside its configuration and inputs: where to write, which seed, how to report."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from alignment.core.artifact import Artifact
from alignment.core.runlog import RunLog

ConfigT = TypeVar("ConfigT", contravariant=True)


class Stage(Protocol[ConfigT]):
    """A stage reads `inputs`, writes its result into `context.workdir` and returns the summary numbers."""

    def __call__(self, config: ConfigT, inputs: Mapping[str, Artifact], context: Context) -> dict[str, Any]: ...


class Measure(Protocol):
    """Measures a model as the recipe measures finished ones. The runner hands it to the stages that are to be watched."""

    def __call__(self, model: Path, folder: Path) -> Mapping[str, Mapping[str, Any]]:
        """model: a folder in Hugging Face format. folder: where the scored items go. Returns an entry for each task, with
        `value`, `role` and `higher_is_better` in it."""
        ...


class Progress:
    """Tells the runner how far a cell is, through a small file it polls. Works across processes and after a crash."""

    def __init__(self, path: Path, interval: float = 0.25) -> None:
        self._path, self._interval = path, interval
        self._written = 0.0
        self._state: dict[str, Any] = {}
        self._note: str | None = None

    def note(self, text: str) -> None:
        """A sentence to show below the bar from the next update on, until there is another."""
        self._note = text

    def update(self, done: int, total: int, phase: str = "", **live: float) -> None:
        """Report `done` of `total` units of the current phase; `live` holds what to show beside the bar (loss, reward)."""
        now = time.time()
        if phase != self._state.get("phase") or done < self._state.get("done", 0):
            self._state = {"phase_started": now, "phase_first": done}
            self._written = 0.0
        self._state |= {"phase": phase, "done": done, "total": total, "live": live, "note": self._note, "time": now}
        if now - self._written >= self._interval or done == total:
            self._written = now
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text(json.dumps(self._state))
            os.replace(temporary, self._path)


@dataclass(frozen=True)
class Context:
    """workdir: files left here become the artifact. scratch: checkpoints and the like, deleted when the cell is complete;
    it survives a crash, so a stage finds its last checkpoint there. seed: the cell's own; derive from it with `seed_for`.
    measure: set where the recipe wants the model measured while it is trained."""

    workdir: Path
    seed: int
    log: RunLog
    progress: Progress
    threads: int = 1
    measure: Measure | None = None

    @property
    def scratch(self) -> Path:
        path = self.workdir / "scratch"
        path.mkdir(exist_ok=True)
        return path

    def seed_for(self, purpose: str) -> int:
        return derive_seed(self.seed, purpose)

    @classmethod
    def at(cls, workdir: Path, seed: int = 0, threads: int = 1) -> Context:
        """A context for a folder, for tests and for calling a stage by hand."""
        workdir.mkdir(parents=True, exist_ok=True)
        return cls(workdir, seed, RunLog(workdir), Progress(workdir / "progress.json"), threads)


def derive_seed(seed: int, *purpose: str) -> int:
    """A 31-bit seed from a seed and what it is for. Independent streams for independent purposes."""
    text = "|".join([str(seed), *purpose])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") & 0x7FFF_FFFF
