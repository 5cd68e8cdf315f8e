"""Measuring along training in the plan: what it changes in a digest, what it needs, and what is refused before anything runs."""

import json

import pytest

from alignment.core.errors import RecipeError
from recipes.check import check_recipe
from recipes.external import Externals
from recipes.plan import make_plan
from recipes.schema import parse_recipe


@pytest.fixture
def recipe(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    (tmp_path / "texts.jsonl").write_text(json.dumps({"text": "a"}) + "\n")

    def build(evaluate=None, frontier=None, evaluation=None):
        sft = {"kind": "sft", "model": {"stage": "base"}, "data": {"path": str(rows)}, "steps": 30}
        raw = {
            "name": "test/along",
            "seeds": [0, 1],
            "stages": {
                "base": {"kind": "pretrain", "seed": 0},
                "sft": sft | ({"evaluate": evaluate} if evaluate else {}),
                "other": sft | {"steps": 20},
            },
            "evaluation": {
                "models": ["base", "sft", "other"],
                "target": ["lab_service"],
                "retained": ["lab_facts", "lab_add"],
            }
            | (evaluation or {}),
            "comparison": {"frontier": frontier} if frontier else {},
        }
        return parse_recipe(raw, "along.yaml")

    return build


def digest(parsed, stage="sft"):
    return make_plan(parsed, Externals()).by_stage[stage, 0].digest


def test_what_is_measured_along_the_way_is_a_part_of_what_the_cell_is(recipe):
    plain, watched = recipe(), recipe({"every": 10})
    assert digest(plain) != digest(watched) and digest(plain, "other") == digest(watched, "other")
    assert digest(watched) != digest(recipe({"every": 5}))
    assert digest(watched) != digest(recipe({"every": 10}, evaluation={"limit": 7}))
    assert digest(watched) != digest(recipe({"every": 10, "tasks": ["lab_add"]}))
    assert digest(plain) == digest(recipe(evaluation={"limit": 7}))


def test_data_of_a_measured_task_are_inputs_of_the_training(recipe, tmp_path):
    own = {
        "retained": ["own"],
        "tasks": {"own": {"metric": "bits_per_byte", "data": {"path": str(tmp_path / "texts.jsonl")}}},
    }
    before = digest(recipe({"every": 10}, evaluation=own))
    (tmp_path / "texts.jsonl").write_text(json.dumps({"text": "b"}) + "\n")
    assert digest(recipe({"every": 10}, evaluation=own)) != before


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        ({"every": 30}, "step 30 is not before the last, 30"),
        ({"at": [40, 50]}, "step 40 is not before the last"),
        ({"every": 10, "tasks": ["lab_sort"]}, "no task 'lab_sort' is measured"),
        ({"every": 10, "best": "lab_sort"}, "no task 'lab_sort' is measured"),
        ({"every": 10, "patience": 2}, "patience waits for a new best"),
        ({"every": 10, "at": [1]}, "exactly one of every, at"),
    ],
)
def test_what_cannot_be_measured_is_refused(recipe, evaluate, message):
    with pytest.raises(RecipeError, match=message):
        make_plan(recipe(evaluate), Externals())


TWO_ARMS = {"base": "base", "arms": {"a": ["sft"], "b": ["other"]}}


@pytest.mark.parametrize(
    ("evaluate", "frontier", "message"),
    [
        (None, {"base": "base", "arms": {"a": ["sft"], "b": ["ohter"]}}, "'ohter' is not among the evaluated models"),
        ({"every": 10, "tasks": ["retained"]}, TWO_ARMS, "'lab_service' is not measured along"),
        ({"every": 10, "limit": 3}, TWO_ARMS, "3 items along the way"),
        ({"every": 10, "best": "target"}, TWO_ARMS, "its path has no end of its own"),
        (None, {"base": "base", "arms": {"a": ["sft"], "b": ["sft", "other"]}}, "'other' does not go on from 'sft'"),
    ],
)
def test_a_frontier_that_could_not_be_drawn_is_refused_before_the_run(recipe, evaluate, frontier, message):
    with pytest.raises(RecipeError, match=message):
        check_recipe(recipe(evaluate, frontier))


def test_an_unfinished_arm_leaves_the_frontier_and_the_others_stay(recipe):
    arms = {"a": ["sft"], "b": ["other"], "c": [["sft"], ["other"]]}
    declared = recipe(frontier={"base": "base", "arms": arms}).comparison.frontier
    assert declared.without({"sft"}) is None  # only b is left
    wider = recipe(frontier={"base": "base", "arms": arms | {"d": ["base"]}, "contrasts": [["b", "d"], ["a", "b"]]})
    left = wider.comparison.frontier.without({"sft"})
    assert list(left.arms) == ["b", "d"] and left.contrasts == [("b", "d")]


def test_a_renamed_reference_is_a_new_measurement_since_its_name_stands_in_the_result(recipe):
    divergence = {"references": ["base"], "target": {"lab": "guests", "rows": 4}}
    parsed = recipe(evaluation={"divergence": divergence})
    cell = make_plan(parsed, Externals()).by_stage["evaluate:sft", 0]
    assert cell.identity["config"]["names"] == {"divergence.references.0.model": "base"}
