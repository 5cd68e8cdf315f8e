"""Two processes make the update that one makes, whether each holds all weights or its part of them."""

import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_ppo_stage import config_for, count_liked, inputs, metrics_of  # noqa: F401 (inputs is a fixture)

from alignment.core.context import Context, Progress
from alignment.core.runlog import RunLog
from alignment.parallel import join_world, leave_world
from alignment.ppo import stage


class Killed(BaseException):
    pass


class KilledInTheThirdStep:
    """The scorer of the other tests, until its process dies under it."""

    def __init__(self):
        self.calls = 0

    def __call__(self, completions, rows):
        self.calls += 1
        if self.calls == 3:
            raise Killed
        return count_liked(completions, rows)


def _rank(rank: int, port: int, folder: Path, config, artifacts, scorer) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    world = join_world("cpu")
    reports = folder if world.main else folder / f"rank{rank}"
    reports.mkdir(parents=True, exist_ok=True)
    context = Context(folder, 0, RunLog(reports), Progress(reports / "progress.json"))
    stage.run(config, artifacts, context, scorer)
    leave_world()


def run_as_two(folder, config, artifacts, scorer=count_liked):
    """Exit codes of both processes."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    ranks = [spawn.Process(target=_rank, args=(rank, port, folder, config, artifacts, scorer)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(150)
    return [process.exitcode for process in ranks]


def run_alone(folder, config, artifacts):
    stage.run(config, artifacts, Context.at(folder), count_liked)
    return load_file(folder / "model.safetensors")


def assert_near(left, right):
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], atol=1e-5, rtol=0)


def small(artifacts, **options):
    # Adam's first steps turn a gradient's sign into a whole step: the rate is small, so that rounding near 0 stays below 1e-5.
    rates = {"learning_rate": 3e-5, "critic": {"learning_rate": 3e-5}, "steps": 3, "checkpoint_every": 2}
    return config_for(artifacts, tokens_per_pass=40, **(rates | options))


@pytest.mark.parametrize("sharding", ["none", pytest.param("gradients", marks=pytest.mark.slow), "full"])
def test_two_processes_make_the_update_of_one(inputs, tmp_path, sharding):  # noqa: F811
    alone = run_alone(tmp_path / "alone", small(inputs), inputs)
    config = small(inputs, runtime={"processes": 2, "sharding": sharding})
    assert run_as_two(tmp_path / "together", config, inputs) == [0, 0]
    together = load_file(tmp_path / "together" / "model.safetensors")
    before = load_file(inputs["model"].path / "model.safetensors")
    moved = max(float((alone[name] - before[name]).abs().max()) for name in alone)
    assert moved > 5e-5  # the update is well above what is compared
    assert_near(together, alone)
    for row, expected in zip(metrics_of(tmp_path / "together"), metrics_of(tmp_path / "alone"), strict=True):
        for name in [name for name in expected if not name.startswith(("time", "speed"))]:
            assert row[name] == pytest.approx(expected[name], abs=1e-4), name


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_a_checkpoint_of_two_processes_is_resumed_by_one_and_the_other_way_round(inputs, tmp_path, sharding):  # noqa: F811
    alone = run_alone(tmp_path / "alone", small(inputs), inputs)
    config = small(inputs, runtime={"processes": 2, "sharding": sharding})

    assert run_as_two(tmp_path / "two, then one", config, inputs, KilledInTheThirdStep()) == [1, 1]
    assert_near(run_alone(tmp_path / "two, then one", small(inputs), inputs), alone)

    with pytest.raises(Killed):
        stage.run(small(inputs), inputs, Context.at(tmp_path / "one, then two"), KilledInTheThirdStep())
    assert run_as_two(tmp_path / "one, then two", config, inputs) == [0, 0]
    assert_near(load_file(tmp_path / "one, then two" / "model.safetensors"), alone)
    assert [row["step"] for row in metrics_of(tmp_path / "one, then two")] == [1, 2, 3]
