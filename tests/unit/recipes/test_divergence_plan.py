"""Which model is measured against which reference, and what that does to the identity of cells."""

import json

import pytest

from alignment.core.errors import DataError, RecipeError
from recipes.check import check_recipe
from recipes.external import Externals
from recipes.plan import make_plan
from recipes.schema import parse_recipe

BLOCK = {"references": ["base", "sft"], "target": {"lab": "guests", "split": "test", "rows": 10}}


def recipe(tmp_path, divergence=None, **evaluation):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    data = {"path": str(rows)}
    block = {"models": ["base", "sft", "lora", "more"], "target": ["lab_service"]} | evaluation
    raw = {
        "name": "test/divergence",
        "seeds": [0, 1],
        "stages": {
            "base": {"kind": "pretrain", "seed": 0},
            "sft": {"kind": "sft", "model": {"stage": "base"}, "data": data, "steps": 3},
            "more": {"kind": "sft", "model": {"stage": "sft"}, "data": data, "steps": 5},
            "lora": {"kind": "sft", "model": {"stage": "base"}, "data": data, "steps": 3, "peft": {}},
        },
        "evaluation": block if divergence is None else block | {"divergence": divergence},
    }
    return parse_recipe(raw, "demo.yaml")


def cells(parsed):
    return {cell.label: cell for cell in make_plan(parsed, Externals()).cells}


def references_of(parsed):
    found = {}
    for label, cell in cells(parsed).items():
        if label.startswith("evaluate") and not label.endswith("seed1"):
            block = cell.config.divergence
            found[label.removeprefix("evaluate-").removesuffix("-seed0")] = block and [r.name for r in block.references]
    return found


def test_no_model_is_measured_against_itself_or_what_started_from_it(tmp_path):
    assert references_of(recipe(tmp_path, BLOCK)) == {
        "base": None, "sft": ["base"], "more": ["base", "sft"], "lora": ["base", "sft"],
    }  # fmt: skip


def test_the_models_to_compare_with_are_inputs_of_the_cell(tmp_path):
    made = cells(recipe(tmp_path, BLOCK))
    inputs = made["evaluate-more-seed1"].inputs
    assert {role: cell.label for role, cell in inputs.items()} == {
        "model": "more-seed1",
        "divergence.references.0.model": "base",
        "divergence.references.1.model": "sft-seed1",
    }


def test_without_a_divergence_no_identity_knows_of_it(tmp_path):
    assert not any("divergence" in cell.identity["config"] for cell in cells(recipe(tmp_path)).values())


def test_asking_for_it_changes_only_the_evaluations_that_measure_it(tmp_path):
    old, new = cells(recipe(tmp_path)), cells(recipe(tmp_path, BLOCK))
    same = {label for label in old if old[label].digest == new[label].digest}
    assert same == {label for label in old if not label.startswith("evaluate")} | {"evaluate-base"}


def test_another_reference_or_number_of_rows_is_another_evaluation(tmp_path):
    other = BLOCK | {"target": {"lab": "guests", "split": "test", "rows": 20}}
    blocks = [BLOCK, other, BLOCK | {"max_new_tokens": 32}, BLOCK | {"references": ["base"]}]
    assert len({cells(recipe(tmp_path, block))["evaluate-more-seed0"].digest for block in blocks}) == 4


def test_a_reference_that_is_no_stage_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"evaluation\.divergence\.references: there is no stage 'bse'"):
        make_plan(recipe(tmp_path, BLOCK | {"references": ["bse"]}), Externals())


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"references": ["base"]}, "target, retained or both"),
        (BLOCK | {"references": []}, "divergence.references"),
        (BLOCK | {"references": ["base", "base"]}, "each reference once"),
    ],
)
def test_a_block_that_asks_for_nothing_is_refused(tmp_path, block, message):
    with pytest.raises(RecipeError, match=message):
        recipe(tmp_path, block)


def test_a_reference_must_be_a_model(tmp_path):
    parsed = recipe(tmp_path, BLOCK | {"references": ["pairs"]})
    pairs = {"kind": "preferences", "model": {"stage": "sft"}, "prompts": {"lab": "guests"}, "gold": "lab_service"}
    raw = {"name": "test/other", "stages": {"pairs": pairs}}
    with_pairs = parsed.model_copy(update={"stages": parsed.stages | parse_recipe(raw, "other.yaml").stages})
    with pytest.raises(RecipeError, match="stage 'pairs' makes a dataset"):
        make_plan(with_pairs, Externals())


def test_check_reads_all_rows_that_the_divergence_may_take(tmp_path):
    rows = tmp_path / "mixed.jsonl"
    rows.write_text(json.dumps({"prompt": "a"}) + "\n" + json.dumps({"prompt": "b"}) + "\n")
    block = {"references": ["base"], "retained": {"path": str(rows), "rows": 1}}
    checked = {data.where: data.rows for data in check_recipe(recipe(tmp_path, block))}
    assert checked["evaluation.divergence.retained"] == 2
    rows.write_text(json.dumps({"prompt": "a"}) + "\n" + json.dumps({"prompt": ""}) + "\n")
    with pytest.raises(DataError, match="line 2: field 'prompt' is empty"):
        check_recipe(recipe(tmp_path, block))
    rows.write_text(json.dumps({"question": "a"}) + "\n")
    with pytest.raises(DataError, match=r"evaluation\.divergence\.retained: .*rows hold question"):
        check_recipe(recipe(tmp_path, block))
