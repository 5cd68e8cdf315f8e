"""A cell that several processes share: torchrun's agent starts and watches them, here in the cell's own process.

The cell talks to its ranks through a Unix socket in a private folder. Unlike files this works when the disk is full, and it
closes when either side dies.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import threading
import uuid
from collections.abc import Mapping
from multiprocessing.connection import Connection, Listener
from typing import TYPE_CHECKING, Any

from alignment.core.errors import CellFailed, SuiteError

if TYPE_CHECKING:
    from recipes.cell import Job

_AGENT_GRACE_SECONDS = 30  # torchrun's agent: between SIGTERM and SIGKILL for the ranks that outlive one of them


class RankFailed(Exception):
    """An error in the suite or a library, on one rank; the text is its traceback."""


def run_ranks(job: Job) -> dict[str, Any]:
    """Run the job's stage on all ranks of this machine and return rank 0's summary; on other machines than the first, {}.

    Raises the SuiteError that a rank raised; CellFailed, naming the rank, when one was killed; RankFailed for a bug. By then no
    rank is left.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    layout = job.layout
    os.environ["OMP_NUM_THREADS"] = str(threads_of_rank(job))  # libraries that start threads of their own read it
    with tempfile.TemporaryDirectory(prefix="align-") as folder, _Reception(job, f"{folder}/cell") as reception:
        config = LaunchConfig(
            min_nodes=layout.machines,
            max_nodes=layout.machines,
            nproc_per_node=layout.here,
            run_id=job.digest if layout.machines > 1 else uuid.uuid4().hex,
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            virtual_local_rank=job.gpu is not None,  # each rank sees its own GPU only, as device 0
            **_meeting_point(job),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "recipes.rank", reception.address)
        except ChildFailedError as error:
            raise cause(_first(error.failures), reception.reports(), layout.processes) from None
        return reception.reports().get(0, {}).get("summary", {})


def _first(failures: Mapping[int, Any]) -> dict[int, int]:
    """Exit codes of the ranks that ended by themselves. torchrun's agent lists those, too, that it then stopped: by SIGTERM, and
    by SIGKILL those that had not gone 30 s later."""
    start = min(failure.timestamp for failure in failures.values())
    early = {rank: f.exitcode for rank, f in failures.items() if f.timestamp < start + _AGENT_GRACE_SECONDS}
    return {rank: code for rank, code in early.items() if code != -signal.SIGTERM} or early


def threads_of_rank(job: Job) -> int:
    return max(1, job.threads // job.layout.here)


def cause(exit_codes: Mapping[int, int], reports: Mapping[int, Mapping[str, Any]], processes: int) -> Exception:
    """Why a cell failed. exit_codes: of the ranks that ended first, minus the signal for a killed one. reports: what ranks told
    before their end, in the order of arrival.

    When one rank goes, the others fail at their next exchange with it. So a user's mistake counts first, then a rank that was
    killed, then the first error that was told.
    """
    told = {rank: report for rank, report in reports.items() if "summary" not in report}
    for _, report in sorted(told.items()):
        if "what" in report:
            return restored(report)
    killed = [rank for rank, code in exit_codes.items() if code < 0 and rank not in told]
    if killed:
        rank = min(killed, key=lambda rank: (exit_codes[rank] != -signal.SIGKILL, rank))
        number = -exit_codes[rank]
        why = "; out of memory is the usual reason" if number == signal.SIGKILL else ""
        what = f"was killed by signal {number} ({signal.Signals(number).name}); the others were stopped{why}"
        return CellFailed(f"rank {rank} of {processes}", what, "", "run again to resume")
    if told:
        rank, report = next(iter(told.items()))
        return RankFailed(f"rank {rank} of {processes}\n{report['traceback']}")
    rank, code = next(iter(exit_codes.items()))
    log = f"log-rank{rank}.txt" if rank else "log.txt"
    return CellFailed(f"rank {rank} of {processes}", f"ended with code {code} and left no result", "", f"see its {log}")


def restored(report: Mapping[str, Any]) -> SuiteError:
    """The user's mistake that another process described by its parts."""
    error = SuiteError(report["where"], report["what"], report["expected"], report["remedy"])
    error.exit_code = report["exit_code"]
    return error


def _meeting_point(job: Job) -> dict[str, Any]:
    """Where the ranks find each other: on one machine over its loopback device, at a port that is free."""
    layout = job.layout
    if layout.machines > 1:
        endpoint = f"{layout.address}:{layout.port}"
        return {"rdzv_backend": "static", "rdzv_endpoint": endpoint, "rdzv_configs": {"rank": layout.machine}}
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    return {"rdzv_backend": "c10d", "rdzv_endpoint": "127.0.0.1:0", "local_addr": "127.0.0.1"}


class _Reception:
    """Gives each rank that calls its job, and keeps what it tells at its end."""

    def __init__(self, job: Job, address: str) -> None:
        self.address = address
        self._job = job
        self._listener = Listener(address, family="AF_UNIX")
        self._reports: dict[int, dict[str, Any]] = {}
        self._talks: list[threading.Thread] = []
        threading.Thread(target=self._welcome, daemon=True).start()

    def __enter__(self) -> _Reception:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def reports(self) -> dict[int, dict[str, Any]]:
        """By rank, in the order of arrival. Call it when no rank runs any more."""
        for talk in self._talks:
            talk.join()
        return self._reports

    def _welcome(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except OSError:  # closed
                return
            talk = threading.Thread(target=self._talk, args=(connection,), daemon=True)
            self._talks.append(talk)
            talk.start()

    def _talk(self, connection: Connection) -> None:
        try:
            rank = connection.recv()
            connection.send(self._job)
            self._reports[rank] = connection.recv()
            connection.recv()  # until it is gone: closing this end earlier would end it
        except (EOFError, OSError):
            pass
