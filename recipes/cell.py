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
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import yaml

from alignment.core.artifact import Artifact
from alignment.core.config import StageConfig
from alignment.core.context import Context, Progress, derive_seed
from alignment.core.errors import SuiteError
from alignment.core.provenance import code_commit, hardware, versions
from alignment.core.runlog import RunLog
from alignment.core.store import Store
from recipes.stages import KINDS, run_function

_FULL_BYTES = 64 * 1024
_MESSAGE = 8_000  # characters: a pipe holds 64 KiB, and the runner reads it only after this process has ended


@dataclass(frozen=True)
class Job:
    """A cell with its inputs at hand: all that its process needs. Travels by pickle."""

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


def execute(job: Job, lifeline: Connection) -> None:
    """Make the cell, or wait for the process that makes it. What went wrong, if anything, is sent through `lifeline`: unlike a
    file, that also works when the disk is full."""
    threading.Thread(target=_die_with_runner, args=(lifeline,), daemon=True).start()
    store = Store(job.store)
    code = 0
    try:
        with store.claim(job.digest) as work:
            if not (store.find(job.digest) or store.recover(job.digest)):
                work.mkdir(parents=True, exist_ok=True)
                _redirect_output(work / "log.txt")
                _make(job, store, work)
    except BaseException as error:  # whatever it is, the cell has no result
        lifeline.send(
            {
                key: value[-_MESSAGE:] if isinstance(value, str) else value
                for key, value in _describe(error, job).items()
            }
        )
        code = 1
    sys.stdout.flush()
    os._exit(code)  # the work is on disk: nothing that a library does at exit may delay or fail it


def _make(job: Job, store: Store, work: Path) -> None:
    started = time.time()
    (work / "config.yaml").write_text(yaml.safe_dump(job.identity["config"], sort_keys=False))
    if job.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = job.gpu
    import torch

    torch.set_num_threads(job.threads)
    log = RunLog(work)
    log.info(f"{job.label}: {job.config.kind}, seed {job.seed}, {job.threads} thread(s), digest {job.digest[:12]}")
    context = Context(work, derive_seed(job.seed, job.config.kind), log, Progress(work / "progress.json"), job.threads)
    summary = run_function(job.config.kind)(job.config, job.inputs, context)
    seconds = time.time() - started
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
            "started": round(started),
            "commit": code_commit(),
            "hardware": hardware(),
            "threads": job.threads,
            "versions": versions(),
        },
    }
    store.finish(job.digest, job.recipe, job.label, record)


def _describe(error: BaseException, job: Job) -> dict[str, Any]:
    """The error as plain values: a user's mistake by its four parts, anything else by its traceback."""
    if disk_is_full(error, job.store):
        error = full_disk(job.store)
    if isinstance(error, SuiteError):
        print(error, flush=True)
        parts = {"where": error.where, "what": error.what, "expected": error.expected, "remedy": error.remedy}
        return parts | {"exit_code": error.exit_code}
    traceback.print_exception(error)
    return {"traceback": "".join(traceback.format_exception(error)[-12:])}


def disk_is_full(error: BaseException, folder: Path) -> bool:
    """Libraries hide the system's error in their own: so the disk itself is asked, too."""
    return (isinstance(error, OSError) and error.errno == errno.ENOSPC) or (
        not isinstance(error, SuiteError) and folder.exists() and shutil.disk_usage(folder).free < _FULL_BYTES
    )


def full_disk(folder: Path) -> SuiteError:
    return SuiteError(str(folder), "the disk is full", "free space", "free some and run again: finished cells are kept")


def _redirect_output(path: Path) -> None:
    """Whatever this process and its libraries print goes to the cell's log."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _die_with_runner(lifeline: Connection) -> None:
    """The runner holds the other end; when it dies, even by kill -9, this process must not live on unseen."""
    try:
        lifeline.recv()
    except (EOFError, OSError):
        os._exit(3)
