"""Measuring along training: when, what is kept, and what a resumed run makes of it."""

import json
import random
import shutil

import numpy as np
import pytest
import torch

from alignment.core.config import DuringTraining
from alignment.core.context import Context
from alignment.core.errors import RecipeError
from alignment.evaluations import Evaluations, score


def watched(tmp_path, values, done=0, **settings):
    """Evaluations whose n-th measurement finds `values[n]` for the one retained task. Every model is a file with its step."""
    left = iter(values)

    def measure(model, folder):
        torch.rand(3), np.random.rand(), random.random()  # what a measurement may draw
        entries = {"old": {"value": next(left), "role": "retained", "higher_is_better": True}}
        (folder / "evaluation.json").write_text(json.dumps({"tasks": entries, "model": (model / "step").read_text()}))
        return entries

    base = Context.at(tmp_path)
    context = Context(base.workdir, 0, base.log, base.progress, 1, measure)
    schedule = {} if "at" in settings else {"every": 10}
    return Evaluations(DuringTraining.model_validate(schedule | settings), context, done)


def saver(step):
    def save(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "step").write_text(str(step))

    return save


def train(evaluations, steps, first=0, killed=None):
    """killed: the step after which nothing more happens."""
    step = first
    for step in range(first + 1, steps + 1):
        if evaluations.after(step, steps, saver(step)):
            break
        if step == killed:
            return None
    return step, evaluations.finish(saver(step))


def steps_in(tmp_path):
    return [int(folder.name[5:]) for folder in sorted((tmp_path / "evaluations").glob("step-*"))]


def test_every_so_many_steps_but_not_the_finished_model_which_is_measured_anyway(tmp_path):
    step, best = train(watched(tmp_path, [0.5, 0.4]), 30)
    assert steps_in(tmp_path) == [10, 20] and (step, best) == (30, {})
    assert (tmp_path / "step").read_text() == "30"  # the last weights are the result
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["evaluation/old"]) for row in rows] == [(10, 0.5), (20, 0.4)]


def test_at_the_steps_that_are_named(tmp_path):
    train(watched(tmp_path, [0.1, 0.2, 0.3], at=[1, 2, 8, 99]), 30)
    assert steps_in(tmp_path) == [1, 2, 8]


def test_the_best_weights_are_the_result_and_the_finished_ones_compete(tmp_path):
    assert train(watched(tmp_path / "a", [0.5, 0.9, 0.7], best="old"), 30) == (30, {"best_step": 20})
    assert (tmp_path / "a" / "step").read_text() == "20"
    assert train(watched(tmp_path / "b", [0.5, 0.6, 0.7], best="retained"), 30)[1] == {"best_step": 30}


def test_training_stops_when_nothing_better_comes_for_long_enough(tmp_path):
    values = [0.5, 0.9, 0.9, 0.8, 1.0]  # an equal value is no better one
    assert train(watched(tmp_path, values, best="old", patience=2), 90) == (40, {"best_step": 20})


def test_measuring_leaves_every_random_state_alone(tmp_path):
    evaluations = watched(tmp_path, [0.5])
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = torch.rand(2), np.random.rand(), random.random()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    evaluations.after(10, 30, saver(10))
    assert torch.equal(torch.rand(2), expected[0]) and (np.random.rand(), random.random()) == expected[1:]


def test_a_resumed_run_forgets_what_lies_ahead_and_remembers_the_best_behind(tmp_path):
    train(watched(tmp_path, [0.5, 0.9, 0.7], best="old", patience=3), 60, killed=35)
    again = watched(tmp_path, [0.6, 0.65], done=25, best="old", patience=2)
    assert steps_in(tmp_path) == [10, 20]
    assert train(again, 60, first=25) == (40, {"best_step": 20})
    assert (tmp_path / "step").read_text() == "20"


def test_a_measurement_cut_by_a_crash_does_not_count(tmp_path):
    train(watched(tmp_path, [0.5, 0.9], best="old"), 60, killed=25)
    (tmp_path / "evaluations" / "step-000020" / "evaluation.json").unlink()
    watched(tmp_path, [], done=25, best="old")
    assert steps_in(tmp_path) == [10]


def test_a_best_whose_weights_are_gone_gives_way_to_what_can_be_had(tmp_path):
    train(watched(tmp_path, [0.5, 0.9], best="old"), 60, killed=25)
    shutil.rmtree(tmp_path / "scratch" / "best-000020")
    assert train(watched(tmp_path, [0.1, 0.2], done=25, best="old"), 40, first=25)[1] == {"best_step": 10}


def test_what_best_compares():
    entries = {
        "a": {"value": 0.4, "role": "retained", "higher_is_better": True},
        "b": {"value": 0.8, "role": "retained", "higher_is_better": True},
        "text": {"value": 4.5, "role": "target", "higher_is_better": False},
    }
    assert score(entries, "retained") == pytest.approx(0.6)
    assert score(entries, "a") == 0.4
    assert score(entries, "target") == -4.5
    with pytest.raises(RecipeError, match="'c' was not measured"):
        score(entries, "c")
    with pytest.raises(RecipeError, match="one task, or tasks that point one way"):
        score(entries | {"text": entries["text"] | {"role": "retained"}}, "retained")


def test_a_killed_run_leaves_no_best_folder_that_pushes_out_the_right_one(tmp_path):
    """The folder of step 30 is from a run that was killed before its checkpoint; the run made again finds its best at step 40."""
    train(watched(tmp_path, [0.1, 0.2, 0.9], best="old"), 60, killed=35)
    again = watched(tmp_path, [0.3, 0.95, 0.4, 0.5], done=25, best="old")
    assert train(again, 60, first=25) == (60, {"best_step": 40})
    assert (tmp_path / "step").read_text() == "40"


def test_a_run_that_had_stopped_does_not_go_on_when_it_resumes(tmp_path):
    train(watched(tmp_path, [0.9, 0.5, 0.4], best="old", patience=2), 60, killed=30)
    again = watched(tmp_path, [1.0], done=30, best="old", patience=2)
    assert again.stopped and again.finish(saver(30)) == {"best_step": 10}
    assert not watched(tmp_path / "new", [], best="old", patience=2).stopped
