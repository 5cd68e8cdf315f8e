"""Where a run's numbers go besides its log: what a viewer reads back, once each, also of a resumed run."""

import importlib.util
import math
import os
import subprocess
import sys
import time

import pytest
from pydantic import ValidationError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alignment.core.config import Runtime
from alignment.core.errors import RecipeError, SuiteError
from alignment.core.runlog import RunLog
from alignment.tracking import TENSORBOARD, Trackers, require_installed


def trackers_at(folder, names=("tensorboard",)):
    return Trackers(names, folder, "lab/tiny", "ppo-seed0-0123456789ab", {"steps": 3, "kl": {"coefficient": 0.2}})


def curves(folder):
    """metric -> [(step, value)], as TensorBoard shows it."""
    events = EventAccumulator(str(folder / TENSORBOARD))
    events.Reload()
    return {name: [(point.step, point.value) for point in events.Scalars(name)] for name in events.Tags()["scalars"]}


def needs(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


def test_tensorboard_shows_every_number_at_its_step(tmp_path):
    trackers = trackers_at(tmp_path)
    log = RunLog(tmp_path, trackers)
    log.metrics(1, {"rollout/kl": 0.5, "rollout/score": -1.0})
    log.metrics(2, {"rollout/kl": 0.75})
    trackers.close()
    assert curves(tmp_path) == {"rollout/kl": [(1, 0.5), (2, 0.75)], "rollout/score": [(1, -1.0)]}


def test_a_number_is_on_the_disk_as_soon_as_it_is_logged(tmp_path):
    trackers = trackers_at(tmp_path)
    trackers.metrics(1, {"loss": 2.0})
    assert curves(tmp_path) == {"loss": [(1, 2.0)]}  # without close: a killed run leaves its curve
    trackers.close()


def test_a_number_that_is_not_finite_does_not_stop_the_run(tmp_path):
    trackers = trackers_at(tmp_path)
    trackers.metrics(1, {"loss": math.nan})
    trackers.close()
    ((step, value),) = curves(tmp_path)["loss"]
    assert step == 1 and math.isnan(value)


@pytest.mark.parametrize("kept", [0, 3, 5])
def test_the_steps_that_a_resumed_run_does_again_are_shown_once(kept, tmp_path):
    killed = RunLog(tmp_path, trackers_at(tmp_path))
    for step in range(1, 6):
        killed.metrics(step, {"loss": float(step)})

    time.sleep(1 - time.time() % 1)  # event files are read in the order of their names, which hold the second
    resumed = RunLog(tmp_path, trackers_at(tmp_path))
    resumed.forget_after(kept)
    for step in range(kept + 1, 8):
        resumed.metrics(step, {"loss": float(10 * step)})
    expected = [(step, float(step if step <= kept else 10 * step)) for step in range(1, 8)]
    assert curves(tmp_path) == {"loss": expected}


def test_no_tracker_leaves_no_trace(tmp_path):
    trackers = trackers_at(tmp_path, names=())
    trackers.metrics(1, {"loss": 1.0})
    trackers.close()
    assert not list(tmp_path.iterdir())


def test_tensorboard_alone_is_the_default_and_others_are_named():
    assert Runtime().trackers == ["tensorboard"]
    assert Runtime.model_validate({"trackers": ["wandb", "trackio"]}).trackers == ["wandb", "trackio"]
    with pytest.raises(ValidationError, match="'tensorboard', 'wandb' or 'trackio'"):
        Runtime.model_validate({"trackers": ["wandbb"]})


def test_a_tracker_without_its_package_is_a_mistake_in_the_recipe():
    require_installed(["tensorboard"], "stages.ppo.runtime.trackers")
    missing = [name for name in ("wandb", "trackio") if importlib.util.find_spec(name) is None]
    if not missing:
        pytest.skip("wandb and trackio are both installed")
    with pytest.raises(RecipeError) as caught:
        require_installed(["tensorboard", *missing], "stages.ppo.runtime.trackers")
    assert caught.value.where == "stages.ppo.runtime.trackers"
    assert caught.value.remedy == f"pip install {missing[0]}, or leave it out"


def test_a_tracker_that_cannot_start_says_which_and_why(tmp_path):
    (tmp_path / TENSORBOARD).write_text("a file where a folder should be")
    with pytest.raises(SuiteError, match=r"tensorboard does not start: .*File exists"):
        trackers_at(tmp_path).metrics(1, {"loss": 1.0})


def test_checking_a_recipe_with_trackers_loads_none_of_them():
    code = (
        "import sys; from alignment.tracking import require_installed; require_installed(['tensorboard'], 'here');"
        "print({'torch', 'accelerate', 'tensorboard'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


def test_rank_0_of_two_processes_tracks_without_waiting_for_the_other(tmp_path):
    script = tmp_path / "rank.py"
    script.write_text(
        "import os, sys, torch, torch.distributed as dist\n"
        "from pathlib import Path\n"
        "from alignment.tracking import Trackers\n"
        "dist.init_process_group('gloo'); torch.set_num_threads(3)\n"
        "if dist.get_rank() == 0:\n"
        "    trackers = Trackers(['tensorboard'], Path(sys.argv[1]), 'p', 'r', {})\n"
        "    trackers.metrics(1, {'threads': torch.get_num_threads()}); trackers.metrics(2, {'threads': torch.get_num_threads()})\n"
        "    trackers.close()\n"
        "dist.barrier(); dist.destroy_process_group()\n"
    )
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    plain = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(tmp_path)], env=plain | address | {"RANK": rank, "LOCAL_RANK": rank}
        )
        for rank in ("0", "1")
    ]
    assert [rank.wait(timeout=100) for rank in ranks] == [0, 0]
    assert curves(tmp_path) == {"threads": [(1, 3.0), (2, 3.0)]}  # training goes on with as many threads as before


def free_port():
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@needs("trackio")
def test_trackio_is_not_given_what_it_has(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # before its import
    for name in [name for name in sys.modules if name.split(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)
    first = trackers_at(tmp_path, ["trackio"])
    killed = RunLog(tmp_path, first)
    for step in range(1, 5):
        killed.metrics(step, {"loss": float(step)})
    first.close()
    second = trackers_at(tmp_path, ["trackio"])
    resumed = RunLog(tmp_path, second)
    resumed.forget_after(2)
    for step in range(3, 7):
        resumed.metrics(step, {"loss": float(step)})
    second.close()
    from trackio.sqlite_storage import SQLiteStorage

    logs = SQLiteStorage.get_logs("lab-tiny", "ppo-seed0-0123456789ab")
    assert [(row["step"], row["loss"]) for row in logs] == [(step, float(step)) for step in range(1, 7)]


@needs("wandb")
def test_weights_and_biases_runs_offline_in_the_work_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    trackers = trackers_at(tmp_path, ["wandb"])
    trackers.metrics(1, {"loss": 1.0})
    trackers.close()
    assert len(list((tmp_path / "wandb").glob("offline-run-*-ppo-seed0-0123456789ab/*.wandb"))) == 1
