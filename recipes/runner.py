"""The local executor: independent cells side by side, each in a process of its own, longest chain first.

A crash takes down one cell; what does not depend on it still runs. This is the seam where another executor fits.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Protocol

from alignment.core.artifact import Artifact
from alignment.core.errors import CellFailed, RecipeError, SuiteError
from alignment.core.provenance import cores, memory_gib
from alignment.core.store import Store
from recipes.cell import Job, execute
from recipes.launch import restored
from recipes.plan import Cell
from recipes.processes import read_layout
from recipes.stages import KINDS

_GIB_PER_CELL = 3.0  # resident: the libraries alone take 1.2 GiB, vLLM with its cache about 1
_POLL_SECONDS = 0.25


class Display(Protocol):
    """Where the runner tells what happens. `recipes/live.py` shows it to people."""

    def loading(self, seconds: float) -> None: ...
    def started(self, cell: Cell, resumed: bool) -> None: ...
    def finished(self, cell: Cell, artifact: Artifact) -> None: ...
    def failed(self, cell: Cell, error: SuiteError) -> None: ...
    def refresh(self, running: Sequence[Running], outcome: Outcome, waiting: Sequence[Cell]) -> None: ...


@dataclass
class Running:
    cell: Cell
    process: ForkServerProcess
    lifeline: Any  # our end of a pipe: when it closes, the child ends
    work: Path
    started: float
    gpus: list[str]

    def progress(self) -> dict[str, Any]:
        """What the cell last said of itself; empty before its first word."""
        try:
            return json.loads((self.work / "progress.json").read_text())
        except (OSError, ValueError):
            return {}


@dataclass
class Outcome:
    """artifacts: finished cells by digest. errors: by label. skipped: labels of cells that needed a failed one."""

    artifacts: dict[str, Artifact] = field(default_factory=dict)
    errors: dict[str, SuiteError] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


def default_jobs() -> int:
    """As many cells at once as cores and memory carry; on a GPU machine one per GPU."""
    return len(visible_gpus()) or max(1, min(cores(), int(memory_gib() // _GIB_PER_CELL)))


def visible_gpus() -> list[str]:
    """The GPUs that this run may use: CUDA_VISIBLE_DEVICES where it is set, else all of the machine. Without importing torch:
    the runner itself never touches a device."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() and name.strip() != "-1"]
    return [str(index) for index, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]


def run_cells(cells: Sequence[Cell], store: Store, recipe: str, display: Display, jobs: int) -> Outcome:
    """Make every cell that the store lacks, inputs first. Failures are in the outcome; KeyboardInterrupt stops all children.

    Raises RecipeError, before anything runs, for a cell that wants more GPUs than there are.
    """
    outcome = Outcome()
    for cell in cells:
        artifact = store.find(cell.digest)
        if artifact:
            outcome.artifacts[cell.digest] = artifact
    waiting = [cell for cell in cells if cell.digest not in outcome.artifacts]
    if waiting:
        _Executor(store, recipe, display, jobs, outcome, waiting).run()
    return outcome


class _Executor:
    """Holds the child processes; stops them however the run ends."""

    def __init__(
        self, store: Store, recipe: str, display: Display, jobs: int, outcome: Outcome, waiting: list[Cell]
    ) -> None:
        self.store, self.recipe, self.display, self.outcome = store, recipe, display, outcome
        self.gpus = visible_gpus()
        self.all_gpus = len(self.gpus)
        self.jobs = min(jobs, len(self.gpus)) if self.gpus else jobs
        self.threads = max(1, cores() // self.jobs)
        self.layouts = {cell.digest: read_layout(cell.config, f"stages.{cell.stage}") for cell in waiting}
        for cell in waiting:
            self._require_gpus(cell)
        self.waiting = sorted(waiting, key=_chain_weights(waiting).__getitem__, reverse=True)
        self.running: list[Running] = []
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["recipes.preload"])
        # Cells end by os._exit, so Python's tracker of semaphores cleans up after them; it need not say so.
        os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")

    def run(self) -> None:
        self._warm_up()
        try:
            while self.waiting or self.running:
                self._launch_ready()
                multiprocessing.connection.wait([r.process.sentinel for r in self.running], timeout=_POLL_SECONDS)
                self._collect()
                self.display.refresh(self.running, self.outcome, self.waiting)
        finally:
            for running in self.running:
                running.process.kill()
            for running in self.running:
                running.process.join()

    def _warm_up(self) -> None:
        """Start the fork server, which imports the heavy libraries, while the display lives on."""
        first = threading.Thread(target=lambda: self.context.Process(target=_nothing).start(), daemon=True)
        started = time.time()
        first.start()
        while first.is_alive():
            self.display.loading(time.time() - started)
            first.join(_POLL_SECONDS)

    def _launch_ready(self) -> None:
        """Start what can start, in order. Where the next one that could start needs more than is free, it waits and with it what
        stands behind it: a cell of many processes would else never find enough of them free."""
        for cell in list(self.waiting):
            if all(needed.digest in self.outcome.artifacts for needed in cell.needs()):
                jobs = self._jobs_for(cell) + sum(self._jobs_for(running.cell) for running in self.running)
                if jobs > self.jobs or self._gpus_for(cell) > len(self.gpus):
                    return
                self.waiting.remove(cell)
                self._launch(cell)

    def _jobs_for(self, cell: Cell) -> int:
        """On the CPU each process weighs as much as a cell of one; GPUs are counted themselves."""
        return 1 if self.all_gpus else min(self.layouts[cell.digest].here, self.jobs)

    def _gpus_for(self, cell: Cell) -> int:
        """How many GPUs of this machine the cell takes, all at once; on a machine without, 0."""
        layout = self.layouts[cell.digest]
        return layout.here if self.all_gpus and layout.device != "cpu" else 0

    def _require_gpus(self, cell: Cell) -> None:
        layout = self.layouts[cell.digest]
        wanted = layout.here if layout.device == "gpu" else self._gpus_for(cell)
        if wanted > self.all_gpus:
            where, what = f"stages.{cell.stage}.runtime", f"{wanted} processes, each with a GPU of its own"
            raise RecipeError(where, what, f"at most {self.all_gpus}, the GPUs of this machine", "lower `processes`")

    def _launch(self, cell: Cell) -> None:
        inputs = {
            role: self.outcome.artifacts[i.digest] if isinstance(i, Cell) else i for role, i in cell.inputs.items()
        }
        gpus = [self.gpus.pop(0) for _ in range(self._gpus_for(cell))]
        work = self.store.partial(cell.digest)
        threads = cell.config.runtime.threads or self.threads
        job = Job(
            self.store.root, self.recipe, cell.stage, cell.label, cell.config, cell.seed, cell.identity, cell.digest, inputs, threads,
            ",".join(gpus) or None, self.layouts[cell.digest], cell.measuring,
        )  # fmt: skip
        ours, theirs = multiprocessing.Pipe()
        process = self.context.Process(target=execute, args=(job, theirs), name=cell.label)
        resumed = work.exists()
        (work / "progress.json").unlink(missing_ok=True)
        process.start()
        theirs.close()
        self.running.append(Running(cell, process, ours, work, time.time(), gpus))
        self.display.started(cell, resumed)

    def _collect(self) -> None:
        for running in [r for r in self.running if not r.process.is_alive()]:
            self.running.remove(running)
            running.process.join()
            self.gpus += running.gpus
            artifact = self.store.find(running.cell.digest)
            if artifact:
                self.outcome.artifacts[running.cell.digest] = artifact
                self.display.finished(running.cell, artifact)
            else:
                self._fail(running)
            running.lifeline.close()

    def _fail(self, running: Running) -> None:
        error = _read_error(running)
        self.outcome.errors[running.cell.label] = error
        self.display.failed(running.cell, error)
        lost = {running.cell.digest}
        for cell in sorted(self.waiting, key=_depth):
            if any(needed.digest in lost for needed in cell.needs()):
                lost.add(cell.digest)
                self.waiting.remove(cell)
                self.outcome.skipped.append(cell.label)


def _nothing() -> None:
    pass


def _read_error(running: Running) -> SuiteError:
    """What the cell said before its end, or what its exit code tells."""
    where, log = running.cell.label, running.work / "log.txt"
    try:
        record = running.lifeline.recv() if running.lifeline.poll() else None
    except (EOFError, OSError):
        record = None
    if record is None:
        code = running.process.exitcode
        cause = "out of memory is the usual reason" if code == -9 else "the last lines of its log tell more"
        what = f"its process ended with code {code} and left no result; {cause}"
        return CellFailed(where, what, "", f"see {log}; run again to resume")
    if "traceback" in record:
        return CellFailed(where, f"an error in the suite or a library\n{record['traceback']}", "", f"full log: {log}")
    return restored(record | {"where": f"{where}: {record['where']}"})


def _chain_weights(cells: Sequence[Cell]) -> dict[Cell, float]:
    """For each cell the weight of the longest chain that starts with it: what must not wait."""
    users: dict[str, list[Cell]] = {}
    for cell in cells:
        for needed in cell.needs():
            users.setdefault(needed.digest, []).append(cell)
    chain: dict[Cell, float] = {}
    for cell in reversed(cells):  # users come after what they use
        own = KINDS[cell.config.kind].weight
        chain[cell] = own + max((chain[user] for user in users.get(cell.digest, [])), default=0.0)
    return chain


def _depth(cell: Cell) -> int:
    return 1 + max((_depth(needed) for needed in cell.needs()), default=0)
