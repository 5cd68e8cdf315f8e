"""kill -9 at random moments: finished cells are not repeated, no half result is taken for whole, the report is there."""

import json
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import ALIGN

TINY = Path(__file__).with_name("tiny.yaml")


def start(folder):
    log = (folder / "out.txt").open("w")
    return subprocess.Popen(
        [ALIGN, "run", TINY, "--store", folder / "runs"],
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells let background jobs ignore Ctrl-C
    )


def wait_for_a_cell(process, folder, timeout=120):
    """Until the run has started or finished a cell."""
    deadline = time.time() + timeout
    while time.time() < deadline and process.poll() is None:
        if re.search(r"start |resume |done  ", (folder / "out.txt").read_text()):
            return
        time.sleep(0.1)


def finished_cells(folder):
    return {path.parent.name: path.stat().st_mtime_ns for path in (folder / "runs").rglob("manifest.json")}


def processes_using(folder):
    """Processes whose open files lie under `folder`: children that outlived their runner."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            targets = {os.readlink(link) for link in (process / "fd").iterdir()}
        except OSError:
            continue
        if any(target.startswith(f"{folder}/runs/.partial") for target in targets):
            found.append(int(process.name))
    return found


def kill_and_restart(folder, kills, rng):
    """Kill that many runs at random moments, then let one finish. Returns its exit code."""
    finished = {}
    for _ in range(kills):
        process = start(folder)
        wait_for_a_cell(process, folder)
        time.sleep(rng.uniform(0, 12))
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.time() + 10
        while processes_using(folder) and time.time() < deadline:
            time.sleep(0.1)
        assert processes_using(folder) == [], "a cell outlived its killed runner"
        now = finished_cells(folder)
        assert finished.items() <= now.items(), "a finished cell was lost or made again"
        finished = now
    process = start(folder)
    code = process.wait(timeout=600)
    assert finished.items() <= finished_cells(folder).items(), "a finished cell was lost or made again"
    return code


def check_whole(folder, align):
    shown = align("show", "--verify", "--store", folder / "runs", cwd=folder)
    assert shown.returncode == 0, shown.stdout
    assert "damaged" not in shown.stdout
    report = folder / "runs" / "test" / "tiny" / "report"
    results = json.loads((report / "results.json").read_text())
    assert {(entry["id"], entry["seed"]) for entry in results["stages"]} >= {
        ("sft", 0),
        ("sft", 1),
        ("ppo", 0),
        ("ppo", 1),
    }
    assert (report / "report.html").stat().st_size > 10_000
    assert list((folder / "runs" / ".partial").glob("*")) == []
    logs = [path.read_text() for path in report.parent.glob("ppo-seed*/log.txt")]
    assert len(logs) == 2
    assert all("rollouts by vLLM" in log for log in logs)


def test_three_kills(tmp_path, align):
    assert kill_and_restart(tmp_path, 3, random.Random(0)) == 0, (tmp_path / "out.txt").read_text()
    check_whole(tmp_path, align)


@pytest.mark.slow
def test_ten_kills(tmp_path, align):
    assert kill_and_restart(tmp_path, 10, random.Random(1)) == 0, (tmp_path / "out.txt").read_text()
    check_whole(tmp_path, align)
