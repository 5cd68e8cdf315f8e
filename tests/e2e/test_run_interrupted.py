"""Ctrl-C and failing cells: one message, nothing lost, nothing left running."""

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from test_run_kill import processes_using, start, wait_for_a_cell

TINY = Path(__file__).with_name("tiny.yaml")


def test_ctrl_c_stops_every_cell_and_says_how_to_go_on(tmp_path):
    process = start(tmp_path)
    wait_for_a_cell(process, tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130
    out = (tmp_path / "out.txt").read_text()
    assert "run the same command to go on" in out
    assert "Traceback" not in out
    deadline = time.monotonic() + 20  # a busy machine takes its time over the dead
    while processes_using(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_using(tmp_path) == []


@pytest.fixture
def recipe(tmp_path):
    """The tiny recipe cut down to base and sft, with changes to sft."""

    def write(**sft):
        raw = yaml.safe_load(TINY.read_text())
        base = raw["stages"]["base"] | {"steps": 20, "batch_tokens": 256}
        raw["stages"] = {"base": base, "sft": raw["stages"]["sft"] | {"steps": 2} | sft}
        raw["evaluation"] |= {"models": ["base", "sft"], "limit": 4}
        raw["comparison"] = {}
        raw["seeds"] = [0]
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(raw))
        return path

    return write


def test_rows_too_long_stop_their_stage_with_one_message_and_what_does_not_need_it_goes_on(tmp_path, align, recipe):
    """Found bad only when the stage runs, since only then there is a tokenizer; told in the same manner."""
    done = align("run", recipe(max_length=8), "--store", "runs", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.search(r"error sft-seed0: .*data", done.stdout), done.stdout
    assert "expected:" in done.stdout
    assert "remedy:" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert "not run, since they need a failed cell: evaluate-sft-seed0" in done.stdout
    shown = align("show", "--store", "runs", cwd=tmp_path)
    assert "base" in shown.stdout
    assert "evaluate-base" in shown.stdout
    assert "sft-seed0" not in shown.stdout

    again = align("run", recipe(max_length=64), "--store", "runs", cwd=tmp_path)
    assert again.returncode == 0, again.stdout
    assert "4 cells, 2 done, 2 to do" in again.stdout
    assert "report.html" in again.stdout


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 800 KiB: enough to start, too small for two models."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=800k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_one_message_and_no_half_result(tmp_path, align, recipe, small_disk):
    done = align("run", recipe(), "--store", small_disk / "runs", cwd=tmp_path)
    assert done.returncode == 1, done.stdout
    assert "the disk is full" in done.stdout
    assert "finished cells are kept" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr

    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    again = align("run", recipe(), "--store", small_disk / "runs", cwd=tmp_path)
    assert again.returncode == 0, again.stdout
    assert align("show", "--verify", "--store", small_disk / "runs", cwd=tmp_path).returncode == 0
