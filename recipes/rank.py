"""One of the processes that share a cell. torchrun starts it as `python -m recipes.rank SOCKET`.

Through the socket it gets its job and tells how it ended. It also holds its life: when the cell's process goes, however it
goes, the socket closes and the rank ends. Rank 0 writes the cell's log, numbers, progress and result.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Client
from typing import Any

from alignment.core.store import Store
from recipes.cell import Job, describe, die_with, redirect_output, run_stage
from recipes.launch import threads_of_rank


def main(address: str) -> None:
    """Ends the process: code 0 once the stage is done, 1 after an error that was told."""
    cell = Client(address, family="AF_UNIX")
    rank = int(os.environ["RANK"])
    cell.send(rank)
    job: Job = cell.recv()
    threading.Thread(target=die_with, args=(cell,), daemon=True).start()
    code = 0
    try:
        summary = _run(job, rank)
        cell.send({"summary": summary if rank == 0 else {}})
    except BaseException as error:  # whatever it is, this rank has no result
        with suppress(OSError):  # the cell is gone: nobody is left to tell
            cell.send(describe(error, job))
        code = 1
    sys.stdout.flush()
    os._exit(code)


def _run(job: Job, rank: int) -> dict[str, Any]:
    work = Store(job.store).partial(job.digest)
    reports = work
    if rank:
        redirect_output(work / f"log-rank{rank}.txt")
        # A helper logs as rank 0 does, but where nobody looks; deleted with the checkpoints.
        reports = work / "scratch" / f"rank{rank}"
        reports.mkdir(parents=True, exist_ok=True)
    # After the job is here: what follows takes seconds, and this process must know by then when to die.
    import torch

    from alignment.parallel import join_world, leave_world

    join_world("cuda" if torch.cuda.is_available() else "cpu")
    summary = run_stage(job, work, reports, threads_of_rank(job))
    leave_world()
    return summary


if __name__ == "__main__":
    main(sys.argv[1])
