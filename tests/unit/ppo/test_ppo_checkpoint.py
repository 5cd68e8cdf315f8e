"""What a checkpoint file survives: damage, full disks, kills; and random states, which it has to bring back."""

import os
import random
import resource
import signal
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.ppo.checkpoint import Checkpoints
from alignment.random_states import random_states, set_random_states


def state_of(step):
    return {"weights": torch.arange(5000.0) * step, "nested": {"step": step, "names": ["a", "b"]}, "rest": (None, True)}


def same(found, step):
    return (
        found is not None
        and found[0] == step
        and torch.equal(found[1].pop("weights"), torch.arange(5000.0) * step)
        and found[1] == {"nested": {"step": step, "names": ["a", "b"]}, "rest": (None, True)}
    )


def steps_in(folder):
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("*.pt"))


def test_the_newest_state_comes_back_and_two_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path / "made" / "when needed")
    assert checkpoints.load("cpu") is None and checkpoints.newest() is None
    for step in (5, 10, 100):  # by number, not by name: 5 < 10 < 100
        checkpoints.save(step, state_of(step))
    assert checkpoints.newest() == 100
    assert steps_in(tmp_path / "made" / "when needed") == [10, 100]
    assert same(Checkpoints(tmp_path / "made" / "when needed").load("cpu"), 100)


def test_no_checkpoint_at_all_cannot_be_asked_for(tmp_path):
    with pytest.raises(ValueError, match="keep 0"):
        Checkpoints(tmp_path, keep=0)


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_damage_at_any_byte_is_told_and_the_one_before_is_taken(place, bit, cut):
    with tempfile.TemporaryDirectory() as name:
        told: list[str] = []
        checkpoints = Checkpoints(Path(name), say=told.append)
        paths = [checkpoints.save(step, state_of(step)) for step in (20, 40)]
        damage(paths[1], place, bit, cut)
        assert same(checkpoints.load("cpu"), 20)
        assert told == ["checkpoint of step 40 is damaged (digest differs): going back to step 20"]
        damage(paths[0], place, bit, cut)
        assert checkpoints.load("cpu") is None
        assert told[1:] == [
            "checkpoint of step 40 is damaged (digest differs): going back to step 20",
            "checkpoint of step 20 is damaged (digest differs): starting from the beginning",
        ]
        assert all(path.exists() for path in paths)  # nothing better has taken their place


def damage(path, place, bit, cut):
    content = bytearray(path.read_bytes())
    offset = int(place * len(content))
    if cut:
        del content[offset:]
    else:
        content[offset] ^= 1 << bit
    path.write_bytes(content)


def test_one_that_cannot_be_read_is_told_with_the_reason(tmp_path):
    told = []
    checkpoints = Checkpoints(tmp_path, say=told.append)
    checkpoints.save(20, state_of(20))
    path = checkpoints.save(40, state_of(40))
    path.unlink()
    path.mkdir()  # a folder opens for nobody, root included
    assert same(checkpoints.load("cpu"), 20)
    assert told == ["checkpoint of step 40 is damaged (cannot be read: Is a directory): going back to step 20"]


def test_after_falling_back_the_damaged_one_goes_and_the_good_one_stays(tmp_path):
    for step in (20, 40):
        last = Checkpoints(tmp_path).save(step, state_of(step))
    damage(last, 0.5, 0, cut=True)
    resumed = Checkpoints(tmp_path, say=lambda _: None)
    assert same(resumed.load("cpu"), 20)
    resumed.save(30, state_of(30))
    assert steps_in(tmp_path) == [20, 30]
    assert same(resumed.load("cpu"), 30)


def test_a_step_saved_again_takes_the_place_of_the_damaged_one(tmp_path):
    for step in (20, 40):
        last = Checkpoints(tmp_path).save(step, state_of(step))
    damage(last, 0.5, 0, cut=False)
    resumed = Checkpoints(tmp_path, say=lambda _: None)
    resumed.load("cpu")
    resumed.save(40, state_of(40) | {"nested": "another result"})
    assert steps_in(tmp_path) == [20, 40]
    assert Checkpoints(tmp_path, say=pytest.fail).load("cpu")[1]["nested"] == "another result"


@contextmanager
def files_limited_to(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 1, 70, 9_000, 20_000, 21_500])
def test_a_disk_that_fills_while_writing_leaves_the_earlier_ones(room, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (20, 40):
        size = checkpoints.save(step, state_of(step)).stat().st_size
    assert size > room
    before = sorted(tmp_path.iterdir())
    with files_limited_to(room), pytest.raises(OSError, match="File too large"):
        checkpoints.save(60, state_of(60))
    assert sorted(tmp_path.iterdir()) == before  # the half one gave its room back
    assert same(checkpoints.load("cpu"), 40)


def test_a_full_disk_is_an_os_error_with_its_number(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(20, state_of(20))
    (tmp_path / "step-40.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(40, {"large": torch.zeros(100_000)})
    assert same(checkpoints.load("cpu"), 20) and not list(tmp_path.glob("*.tmp"))


def killed_before(operation, work):
    """Runs `work` in a process that kill -9s itself before its file operation number `operation`. False if it got through."""
    child = os.fork()
    if child == 0:
        count = 0

        def watch(frame, event, argument):
            nonlocal count
            if event != "c_call":
                return
            owner = getattr(argument, "__self__", None)
            if getattr(owner, "__name__", type(owner).__module__) in ("posix", "_io", "io"):
                if count == operation:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1

        try:
            sys.setprofile(watch)
            work()
            sys.setprofile(None)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_killed_between_any_two_file_operations_there_is_the_old_state_or_the_new(tmp_path):
    found, operation = [], 0
    while True:
        folder = tmp_path / str(operation)
        checkpoints = Checkpoints(folder, say=pytest.fail)
        for step in (10, 20):
            checkpoints.save(step, state_of(step))
        killed = killed_before(operation, lambda checkpoints=checkpoints: checkpoints.save(30, state_of(30)))
        step = checkpoints.newest()
        assert step in (20, 30) and same(checkpoints.load("cpu"), step)
        checkpoints.save(40, state_of(40))
        assert steps_in(folder) == [step, 40] and not list(folder.glob("*.tmp"))
        found.append(step)
        if not killed:
            break
        operation += 1
    assert operation > 15  # open, a write for each record, flush, fsync, rename, fsync of the folder, unlink
    assert found == sorted(found) and {20, 30} == set(found)


def test_random_numbers_go_on_where_they_were():
    states = random_states()
    drawn = random.random(), np.random.rand(), torch.rand(1)
    set_random_states(states)
    assert (random.random(), np.random.rand(), torch.rand(1)) == drawn


def test_random_states_survive_the_file(tmp_path):
    Checkpoints(tmp_path).save(1, random_states())
    drawn = random.random(), np.random.rand(), torch.rand(1)
    found = Checkpoints(tmp_path).load("cpu")
    assert found is not None
    set_random_states(found[1])
    assert (random.random(), np.random.rand(), torch.rand(1)) == drawn
