"""What happens inside a cell's own process: claim the cell, run its stage, turn the work folder into an artifact."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import yaml

from alignment.core.artifact import Artifact
from alignment.core.config import StageConfig
from alignment.core.context import Context, Progress, derive_seed
from alignment.core.errors import CellFailed, SuiteError
from alignment.core.provenance import code_commit, hardware, versions
from alignment.core.runlog import RunLog
from alignment.core.store import Store
from alignment.memory.peak import Peak
from alignment.tracking import Trackers
from eval.config import EvaluateConfig
from recipes.launch import RankFailed, run_ranks
from recipes.processes import Layout
from recipes.stages import KINDS, run_function
from recipes.wiring import measure

_FULL_BYTES = 64 * 1024
_MESSAGE = 8_000  # characters: a pipe holds 64 KiB, and the runner reads it only after this process has ended
_FINISH_SECONDS = 600  # for digests and copies of a large result, after the last step


@dataclass(frozen=True)
class Job:
    """A cell with its inputs at hand: all that its processes need. Travels by pickle. gpu: as CUDA_VISIBLE_DEVICES names them."""

    store: Path
    recipe: str
    stage: str
    label: str
    config: StageConfig
    seed: int
    identity: dict[str, Any]
    digest: str
    inputs: Mapping[str, Artifact]
    threads: int
    gpu: str | None = None
    layout: Layout = field(default_factory=Layout)
    measuring: EvaluateConfig | None = None


def execute(job: Job, lifeline: Connection) -> None:
    """Make the cell, or wait for the process that makes it. What went wrong, if anything, is sent through `lifeline`: unlike a
    file, that also works when the disk is full."""
    threading.Thread(target=die_with, args=(lifeline,), daemon=True).start()
    store = Store(job.store)
    code = 0
    try:
        if job.layout.machine:
            _help(job, store)
        else:
            with store.claim(job.digest) as work:
                if not (store.find(job.digest) or store.recover(job.digest)):
                    work.mkdir(parents=True, exist_ok=True)
                    redirect_output(work / "log.txt")
                    _make(job, store, work)
    except BaseException as error:  # whatever it is, the cell has no result
        lifeline.send(describe(error, job))
        code = 1
    sys.stdout.flush()
    os._exit(code)  # the work is on disk: nothing that a library does at exit may delay or fail it


def _make(job: Job, store: Store, work: Path) -> None:
    started = time.time()
    (work / "config.yaml").write_text(yaml.safe_dump(job.identity["config"], sort_keys=False))
    _choose_devices(job)
    log = RunLog(work)
    shape = f"{job.layout.processes} processes, " if job.layout.processes > 1 else ""
    log.info(
        f"{job.label}: {job.config.kind}, seed {job.seed}, {shape}{job.threads} thread(s), digest {job.digest[:12]}"
    )
    for note in job.layout.notes:
        log.info(note)
    peak = Peak()
    alone = job.layout.processes == 1
    summary = run_stage(job, work, work, job.threads) if alone else run_ranks(job)
    seconds, memory = time.time() - started, peak.mib() if alone else None
    log.info(f"done in {seconds:.0f} s: {json.dumps(summary, default=str)[:500]}")
    record = {
        "kind": KINDS[job.config.kind].makes,
        "stage": job.stage,
        "stage_kind": job.config.kind,
        "seed": job.seed,
        "identity": job.identity,
        "inputs": {role: artifact.digest for role, artifact in job.inputs.items()},
        "summary": summary,
        "provenance": {
            "seconds": round(seconds, 2),
            "peak_memory_mib": memory,
            "started": round(started),
            "commit": code_commit(),
            "hardware": hardware(),
            "threads": job.threads,
            "processes": job.layout.processes,
            "versions": versions(),
        },
    }
    store.finish(job.digest, job.recipe, job.label, record)


def run_stage(job: Job, work: Path, reports: Path, threads: int) -> dict[str, Any]:
    """The stage's own work, in this process: its result goes to `work`, its numbers and progress to `reports`."""
    import torch

    torch.set_num_threads(threads)
    seed = derive_seed(job.seed, job.config.kind)
    names = job.config.runtime.trackers if reports == work else []  # one rank tells for all
    run = f"{job.label}-{job.digest[:12]}"
    with closing(Trackers(names, work, job.recipe, run, job.identity["config"])) as trackers:
        context = Context(work, seed, RunLog(reports, trackers), Progress(reports / "progress.json"), threads)
        if job.measuring is not None:
            context = replace(context, measure=partial(measure, job.measuring, job.inputs, context))
        return run_function(job.config.kind)(job.config, job.inputs, context)


def _help(job: Job, store: Store) -> None:
    """A machine other than the first: its ranks take their part; the first machine has the claim and makes the result."""
    work = store.partial(job.digest)
    if store.find(job.digest):
        return
    work.mkdir(parents=True, exist_ok=True)
    redirect_output(work / f"log-machine{job.layout.machine}.txt")
    _choose_devices(job)
    run_ranks(job)
    deadline = time.time() + _FINISH_SECONDS
    while not store.find(job.digest):
        if time.time() > deadline:
            what = f"the first machine left no result within {_FINISH_SECONDS} s after the last step"
            raise CellFailed(f"machine {job.layout.machine}", what, "one store, shared by all machines", "see its log")
        time.sleep(0.2)


def _choose_devices(job: Job) -> None:
    if job.gpu is not None or job.layout.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = job.gpu or ""


def describe(error: BaseException, job: Job) -> dict[str, Any]:
    """The error as plain values that fit a pipe: a user's mistake by its four parts, anything else by its traceback."""
    if disk_is_full(error, job.store):
        error = full_disk(job.store)
    if isinstance(error, SuiteError):
        print(error, flush=True)
        parts = {"where": error.where, "what": error.what, "expected": error.expected, "remedy": error.remedy}
        return {name: part[-_MESSAGE:] for name, part in parts.items()} | {"exit_code": error.exit_code}
    if isinstance(error, RankFailed):
        return {"traceback": str(error)[-_MESSAGE:]}
    traceback.print_exception(error)
    return {"traceback": "".join(traceback.format_exception(error)[-12:])[-_MESSAGE:]}


def disk_is_full(error: BaseException, folder: Path) -> bool:
    """Libraries hide the system's error in their own: so the disk itself is asked, too."""
    return (isinstance(error, OSError) and error.errno == errno.ENOSPC) or (
        not isinstance(error, SuiteError) and folder.exists() and shutil.disk_usage(folder).free < _FULL_BYTES
    )


def full_disk(folder: Path) -> SuiteError:
    return SuiteError(str(folder), "the disk is full", "free space", "free some and run again: finished cells are kept")


def redirect_output(path: Path) -> None:
    """Whatever this process and its libraries print goes to the cell's log."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def die_with(lifeline: Connection) -> None:
    """The process that started this one holds the other end; when it dies, even by kill -9, this one must not live on unseen."""
    try:
        lifeline.recv()
    except (EOFError, OSError):
        os._exit(3)
