"""Copies of a run's numbers for people who watch curves: TensorBoard files by default, Weights & Biases or trackio where a
recipe names them (`runtime: {trackers: [tensorboard, wandb]}`), all through accelerate's trackers.

Importing this costs nothing: a tracker's library is loaded with the first row of numbers. Nothing leaves the machine unless
`wandb` is named, or trackio is told to by its own environment variables.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.core.config import TrackerName
from alignment.core.errors import RecipeError, SuiteError

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

TENSORBOARD = "tensorboard"  # folder of the event files, within the artifact


def require_installed(trackers: Sequence[str], where: str) -> None:
    """Raises RecipeError for the first whose package is missing. Looks, without importing; each is called as its package."""
    for name in trackers:
        if importlib.util.find_spec(name) is None:
            raise RecipeError(
                where, f"tracker {name!r}: its package is not installed", f"the Python package {name}",
                f"pip install {name}, or leave it out",
            )  # fmt: skip


class Trackers:
    """A run log's sink (alignment.core.runlog.Sink); `close` it when the run is over.

    folder: the cell's work folder. project: the recipe. run: a name that is the same when the run is resumed. config: shown
    beside the curves. Raises SuiteError from `metrics` when a tracker cannot start: no account, no network.
    """

    def __init__(
        self, names: Sequence[TrackerName], folder: Path, project: str, run: str, config: Mapping[str, Any]
    ) -> None:
        self._names, self._folder, self._config = tuple(dict.fromkeys(names)), folder, dict(config)
        self._project, self._run = project.replace("/", "-"), run
        self._started: dict[TrackerName, GeneralTracker] = {}
        self._resumed_after: int | None = None
        self._sent = -1

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        for name in self._names:
            if name not in self._started:
                self._started[name] = self._start(name)
            if name == "trackio" and step <= self._sent:
                continue
            self._started[name].log(dict(values), step=step)

    def forget_after(self, step: int, last: int) -> None:
        """Rows past `step` come again, up to `last` for the second time. TensorBoard is told to drop the first ones, Weights &
        Biases keeps the first by itself, and trackio, which would show both, is not given the second."""
        self.close()
        self._resumed_after, self._sent = step, last

    def close(self) -> None:
        for tracker in self._started.values():
            tracker.finish()
        self._started.clear()

    def _start(self, name: TrackerName) -> GeneralTracker:
        _let_accelerate_log()
        tracker = self._make(name)
        try:
            tracker.start()
        except Exception as error:  # each library has errors of its own
            what = f"{name} does not start: {str(error).strip() or type(error).__name__}"
            remedy = f"look at {name}'s own settings, or leave it out of runtime.trackers"
            raise SuiteError("runtime.trackers", what, "a tracker that takes numbers", remedy) from error
        return tracker

    def _make(self, name: TrackerName) -> GeneralTracker:
        from accelerate.tracking import TensorBoardTracker, TrackioTracker, WandBTracker

        if name == "tensorboard":
            purge = None if self._resumed_after is None else self._resumed_after + 1
            return TensorBoardTracker(TENSORBOARD, self._folder, purge_step=purge)
        common = {"name": self._run, "config": self._config, "resume": "allow"}
        if name == "wandb":
            return WandBTracker(self._project, id=self._run, dir=str(self._folder), **common)
        return TrackioTracker(self._project, auto_log_cpu=False, auto_log_gpu=False, **common)


def _let_accelerate_log() -> None:
    """accelerate's loggers want its process state: the stage's, or a new one, which on a CPU may set torch's threads."""
    import torch
    from accelerate import PartialState

    threads = torch.get_num_threads()
    PartialState(cpu=not torch.cuda.is_available())
    torch.set_num_threads(threads)
