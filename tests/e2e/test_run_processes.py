"""A cell of two processes: one result, one message when something goes wrong, nothing left behind, and it resumes."""

import json
import multiprocessing
import os
import signal
import socket
import time
from pathlib import Path

import counting_stage
import psutil
import pytest
from counting_stage import CountConfig

from alignment.core.store import Store
from recipes.cell import Job, execute
from recipes.processes import Layout

HERE = Path(__file__).parent
TWO = Layout(2)


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """Processes in which the stage kind `count` is known, as are those that they start; torch is imported once for all."""
    site = tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text("import counting_stage\n\ncounting_stage.register()\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{site}:{HERE}:{HERE.parents[1]}")
        counting_stage.register()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch.distributed.launcher.api", "recipes.cell"])
        yield context
        counting_stage.KINDS.pop("count")


class Running:
    """A cell in a process of its own, as the runner starts it."""

    def __init__(self, context, folder, layout=TWO, **config):
        self.store = Store(folder)
        job = Job(
            folder, "test/count", "count", "count", CountConfig(**config), 0, {"config": {}}, "d" * 64, {}, 2, layout=layout
        )  # fmt: skip
        self.work = self.store.partial(job.digest)
        self.lifeline, theirs = context.Pipe()
        self.process = context.Process(target=execute, args=(job, theirs))
        self.process.start()
        theirs.close()

    def ranks(self):
        """By number, the processes that carry out the stage."""
        return {int(one.environ()["RANK"]): one for one in psutil.Process(self.process.pid).children()}

    def wait_for_step(self, step):
        deadline = time.time() + 60
        while self.process.is_alive() and time.time() < deadline:
            try:
                if json.loads((self.work / "progress.json").read_text())["done"] >= step:
                    return
            except (OSError, ValueError):
                pass
            time.sleep(0.05)
        pytest.fail(f"no step {step}: {(self.work / 'log.txt').read_text()}")

    def end(self):
        """The code that it ended with, and what it told of an error."""
        self.process.join(60)
        code = self.process.exitcode
        return code, self.lifeline.recv() if code else None


def gone(processes, seconds=8):
    return not psutil.wait_procs(list(processes), timeout=seconds)[1]


def test_a_killed_rank_ends_the_cell_with_its_number_and_the_next_run_resumes(processes, tmp_path):
    cell = Running(processes, tmp_path, steps=1000, seconds=0.02)
    cell.wait_for_step(5)
    ranks = cell.ranks()
    assert sorted(ranks) == [0, 1]
    killed = time.time()
    ranks[1].send_signal(signal.SIGKILL)
    code, told = cell.end()
    assert time.time() - killed < 8
    assert code == 1
    assert told["where"] == "rank 1 of 2"
    assert "killed by signal 9 (SIGKILL)" in told["what"]
    assert "resume" in told["remedy"]
    assert gone(ranks.values(), 0.1)
    assert cell.store.find("d" * 64) is None

    reached = int((cell.work / "scratch" / "saved.txt").read_text().split()[0])
    steps = reached + 3
    again = Running(processes, tmp_path, steps=steps)
    assert again.end() == (0, None)
    result = again.store.find("d" * 64)
    assert result.summary == {"total": 3 * steps, "first": reached}
    assert (result.path / "total.txt").read_text() == str(3 * steps)
    rows = [json.loads(line) for line in (result.path / "metrics.jsonl").read_text().splitlines()]
    assert [row["total"] for row in rows[-3:]] == [3 * steps - 6, 3 * steps - 3, 3 * steps]  # rank 1 wrote no row
    assert len(rows) in (steps, steps + 1)  # killed between a row and its checkpoint: the row is written again
    starts = f"starts at step {reached} with 1 thread(s)"
    assert f"rank 0 of 2 {starts}" in (result.path / "log.txt").read_text()
    assert f"rank 1 of 2 {starts}" in (result.path / "log-rank1.txt").read_text()
    assert "rank 1 of 2" not in (result.path / "log.txt").read_text().split("killed")[-1]
    assert result.provenance["processes"] == 2
    assert not (result.path / "scratch").exists()


def test_a_mistake_found_by_one_rank_is_told_as_it_is_by_one_process(processes, tmp_path):
    cell = Running(processes, tmp_path, mistake=True)
    code, told = cell.end()
    assert code == 1
    assert told == {
        "where": "count.steps",
        "what": "rank 1 found a mistake",
        "expected": "none",
        "remedy": "mend it",
        "exit_code": 2,
    }


@pytest.mark.parametrize("death", [pytest.param("of the cell's process", marks=pytest.mark.slow), "of the runner"])
def test_no_rank_outlives(death, processes, tmp_path):
    cell = Running(processes, tmp_path, steps=1000, seconds=0.02)
    cell.wait_for_step(1)
    ranks = cell.ranks()
    assert len(ranks) == 2
    if death == "of the runner":
        cell.lifeline.close()  # what its death does
    else:
        os.kill(cell.process.pid, signal.SIGKILL)
    assert gone(ranks.values())
    cell.process.join(8)
    assert not cell.process.is_alive()


@pytest.mark.slow
def test_two_machines_with_one_store_make_one_result(processes, tmp_path):
    """Both are this machine; each runs one of the two ranks, as `align run` on either would."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    machines = [Running(processes, tmp_path, Layout(2, machines=2, machine=machine, port=port)) for machine in range(2)]
    assert [one.end() for one in machines] == [(0, None), (0, None)]
    result = machines[0].store.find("d" * 64)
    assert result.summary == {"total": 9, "first": 0}
    assert "rank 1 of 2 starts" in (result.path / "log-rank1.txt").read_text()
