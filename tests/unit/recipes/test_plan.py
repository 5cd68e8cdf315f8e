"""Identity of cells: what changes a digest, what does not, and what a plan shares."""

import json

import pytest

from alignment.core.artifact import digest_of
from alignment.core.errors import RecipeError
from alignment.core.store import Store
from recipes.external import Externals
from recipes.plan import difference_to_nearest, make_plan
from recipes.schema import parse_recipe


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    return path


def recipe(rows, **changes):
    raw = {
        "name": "test/demo",
        "seeds": [0, 1],
        "stages": {
            "base": {"kind": "pretrain", "seed": 0},
            "sft": {"kind": "sft", "model": {"stage": "base"}, "data": {"path": str(rows)}, "steps": 3},
            "more": {"kind": "sft", "model": {"stage": "sft"}, "data": {"path": str(rows)}, "steps": 5},
        },
        "evaluation": {"models": ["base", "sft"], "target": ["lab_service"]},
    }
    for key, value in changes.items():
        block = raw
        *parents, last = key.split("__")
        for parent in parents:
            block = block[parent]
        block[last] = value
    return parse_recipe(raw, "demo.yaml")


def digests(parsed):
    plan = make_plan(parsed, Externals())
    return {cell.label: cell.digest for cell in plan.cells}


def test_a_stage_with_a_fixed_seed_is_one_cell_for_all_seeds(rows):
    assert sorted(digests(recipe(rows))) == [
        "base", "evaluate-base", "evaluate-sft-seed0", "evaluate-sft-seed1", "more-seed0", "more-seed1", "sft-seed0", "sft-seed1",
    ]  # fmt: skip


def test_inputs_come_before_their_users(rows):
    cells = make_plan(recipe(rows), Externals()).cells
    for index, cell in enumerate(cells):
        assert all(cells.index(needed) < index for needed in cell.needs())


def test_a_changed_value_changes_the_stage_and_what_follows_but_nothing_before(rows):
    old, new = digests(recipe(rows)), digests(recipe(rows, stages__sft__learning_rate=5e-4))
    same = {label for label in old if old[label] == new[label]}
    assert same == {"base", "evaluate-base"}


def test_runtime_and_names_are_not_part_of_the_identity(rows):
    old = digests(recipe(rows))
    assert digests(recipe(rows, stages__sft__runtime={"threads": 2})) == old
    renamed = digests(recipe(rows, name="test/other"))
    assert renamed == old


def test_a_default_written_out_is_the_same_cell(rows):
    assert digests(recipe(rows, stages__sft__batch_size=32)) == digests(recipe(rows))


def test_the_contents_of_a_data_file_are_part_of_the_identity_not_its_place(rows, tmp_path):
    old = digests(recipe(rows))
    moved = tmp_path / "elsewhere.jsonl"
    moved.write_bytes(rows.read_bytes())
    assert digests(recipe(rows, stages__sft__data={"path": str(moved)}))["sft-seed0"] == old["sft-seed0"]
    rows.write_text(json.dumps({"prompt": "a", "completion": "c"}) + "\n")
    assert digests(recipe(rows))["sft-seed0"] != old["sft-seed0"]
    assert digests(recipe(rows))["base"] == old["base"]


def test_split_and_rows_of_a_reference_are_part_of_the_identity(rows):
    def with_data(**more):
        return digests(recipe(rows, stages__sft__data={"path": str(rows), **more}))["sft-seed0"]

    assert len({with_data(), with_data(split="train"), with_data(split="test"), with_data(rows=1)}) == 4


def test_digests_of_files_are_remembered_but_never_stale(rows, tmp_path):
    memory = tmp_path / "store" / ".digests.json"
    first = make_plan(recipe(rows), Externals(memory)).cells
    assert memory.exists()
    second = make_plan(recipe(rows), Externals(memory)).cells
    assert [cell.digest for cell in first] == [cell.digest for cell in second]
    rows.write_text(json.dumps({"prompt": "aa", "completion": "c"}) + "\n")
    assert {c.label: c.digest for c in make_plan(recipe(rows), Externals(memory)).cells}["sft-seed0"] != first[1].digest


def test_the_plan_names_the_field_that_caused_a_miss(rows, tmp_path):
    store = Store(tmp_path / "runs")
    old = next(cell for cell in make_plan(recipe(rows), Externals()).cells if cell.label == "sft-seed0")
    with store.claim(old.digest) as work:
        work.mkdir(parents=True)
        record = {
            "kind": "model",
            "stage": "sft",
            "stage_kind": "sft",
            "seed": 0,
            "identity": old.identity,
            "inputs": {},
        }
        store.finish(
            old.digest, "test/demo", old.label, record | {"summary": {}, "provenance": {"seconds": 1, "started": 0}}
        )
    new = next(
        cell for cell in make_plan(recipe(rows, stages__sft__steps=4), Externals()).cells if cell.label == "sft-seed0"
    )
    assert difference_to_nearest(old, store) is None
    assert difference_to_nearest(new, store) == "steps: 3 -> 4"


def test_only_takes_the_stage_and_what_it_needs(rows):
    plan = make_plan(recipe(rows), Externals())
    assert [cell.label for cell in plan.only(["sft"])] == ["base", "sft-seed0", "sft-seed1"]


def test_a_second_reward_is_another_reward_model_and_nothing_else(rows):
    data = {"data": {"path": str(rows)}, "steps": 1}
    stages = {
        "base": {"kind": "pretrain", "seed": 0},
        "sft": {"kind": "sft", "model": {"stage": "base"}} | data,
        "one": {"kind": "reward", "model": {"stage": "sft"}, "data": {"path": str(rows)}},
        "two": {"kind": "reward", "model": {"stage": "sft"}, "data": {"path": str(rows)}, "learning_rate": 1e-4},
        "ppo": {"kind": "ppo", "model": {"stage": "sft"}, "reward": {"stage": "one"}, "prompts": {"lab": "guests"}},
    }
    for second, wrong in (("two", False), ("sft", True)):
        stages["ppo"]["second_reward"] = {"stage": second}
        if wrong:
            with pytest.raises(RecipeError, match=r"second_reward.*\n?.*a reward model"):
                digests(recipe(rows, stages=stages))
        else:
            assert "ppo/0" in " ".join(digests(recipe(rows, stages=stages))).replace("-seed", "/")


def test_a_circle_is_named(rows):
    with pytest.raises(RecipeError, match="sft -> more -> sft"):
        make_plan(recipe(rows, stages__sft__model={"stage": "more"}), Externals())


def test_a_pretrained_model_is_an_input_without_a_cell(rows, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_text("one")
    changed = {"stages__base": {"kind": "pretrained", "model": {"path": str(folder)}}}
    old = digests(recipe(rows, **changed))
    assert "base" not in old
    assert "evaluate-base" in old
    (folder / "model.safetensors").write_text("two")
    new = digests(recipe(rows, **changed))
    assert old["evaluate-base"] != new["evaluate-base"]
    assert old["sft-seed0"] != new["sft-seed0"]


def test_identities_are_plain_json(rows):
    for cell in make_plan(recipe(rows), Externals()).cells:
        assert digest_of(json.loads(json.dumps(cell.identity))) == cell.digest
