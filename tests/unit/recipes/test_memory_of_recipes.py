"""`align check` says what a recipe's trainings take, as the stages themselves will say it, without loading a model."""

import io
import json

import pytest
from rich.console import Console

from alignment.lab.config import PretrainConfig
from alignment.memory.shape import shape_in
from recipes.check import check_recipe
from recipes.external import Externals
from recipes.memory import memory_table, remedies, stage_memory
from recipes.plan import make_plan
from recipes.schema import load_recipe, parse_recipe


def found_in(recipe):
    return stage_memory(make_plan(recipe, Externals()), check_recipe(recipe))


def test_a_lab_recipe_is_known_from_its_sizes_and_rows():
    found = found_in(load_recipe("lab/sft-vs-rlhf")[0])
    assert set(found) == {"sft", "reward", "ppo", "sft_more"}
    training, memory = found["sft"]
    assert memory.parameters == memory.trainable == 1_795_072
    from alignment.core.config import DataRef
    from alignment.data.chat import prompt_ids
    from alignment.data.rows import load_rows
    from alignment.lab.stage import make_model
    from alignment.lab.tokenizer import make_tokenizer
    from alignment.models.encoding import encode_row

    tokenizer = make_tokenizer()
    model = make_model(PretrainConfig(), tokenizer, seed=0)
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    assert shapes == training.shape.weights
    rows = load_rows(DataRef.model_validate({"lab": "demonstrations", "rows": 2000}))
    longest = max(len(encode_row(tokenizer, row).ids) for row in rows)
    assert longest <= training.tokens / 32 <= longest + 8  # the chat template's marks are rounded up
    prompts = load_rows(DataRef.model_validate({"lab": "guests", "rows": 4000}))
    longest = (
        max(len(prompt_ids(tokenizer, row["prompt"])) for row in prompts) + 48
    )  # pairs are sampled answers to them
    assert longest <= found["reward"][0].tokens / 16 <= longest + 8


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": "the cow", "completion": " is red" * n}) + "\n" for n in (1, 5)))
    return {"path": str(path)}


def test_a_model_folder_is_read_and_its_own_tokenizer_counts(tiny_folder, rows):
    stages = {"sft": {"kind": "sft", "model": {"path": str(tiny_folder)}, "data": rows, "steps": 1, "batch_size": 2}}
    stages["small"] = stages["sft"] | {"peft": {"method": "prompt", "virtual_tokens": 4}}
    found = found_in(parse_recipe({"name": "t", "stages": stages}, "t.yaml"))
    training, memory = found["sft"]
    assert training.shape == shape_in(tiny_folder)
    assert training.tokens == 2 * (12 + 8)
    assert memory.parameters == training.shape.parameters
    assert found["small"][1].trainable == 4 * 64

    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(memory_table(found, 24 * 2**30))
    printed = console.export_text().splitlines()
    assert "this machine has 24,576" in printed[0]
    assert printed[2].split()[:2] == ["sft", "100%"] and printed[2].split()[-1] == "fits"
    console.print(memory_table(found, 40 * 2**20))
    assert console.export_text().count("too large") == 2
    assert remedies(found, 24 * 2**30) == []
    assert remedies(found, 40 * 2**20)[0] == "stages.sft: too large: train an adapter: peft: {method: lora}"


def test_a_stage_that_trains_nothing_takes_no_line(tiny_folder, rows):
    stages = {
        "mix": {
            "kind": "interpolate",
            "model": {"path": str(tiny_folder)},
            "tuned": {"path": str(tiny_folder)},
            "factor": 0.5,
        }
    }
    assert found_in(parse_recipe({"name": "t", "stages": stages}, "t.yaml")) == {}


def test_packing_and_replay_count_and_an_architecture_without_weights_takes_no_line(tiny_folder, rows, tmp_path):
    (tmp_path / "old.jsonl").write_text(json.dumps({"text": "the cow is red " * 6}))
    base = {"kind": "sft", "model": {"path": str(tiny_folder)}, "data": rows, "steps": 1, "batch_size": 2}
    replay = {"data": {"path": str(tmp_path / "old.jsonl")}, "share": 0.5}
    stages = {"packed": base | {"packing": True, "max_length": 48}, "replayed": base | {"replay": replay}}
    stages["new"] = {"kind": "untrained", "architecture": "gpt2", "tokenizer": {"path": str(tiny_folder)}}
    stages["from_new"] = base | {"model": {"stage": "new"}}
    found = found_in(parse_recipe({"name": "t", "stages": stages}, "t.yaml"))
    assert set(found) == {"packed", "replayed"}
    assert found["packed"][0].tokens == 2 * 48
    assert found["replayed"][0].tokens == 2 * (24 + 8)


def test_a_tokenizer_that_cannot_be_read_is_guessed_at(tiny_folder, rows, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_folder.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    (folder / "tokenizer.json").write_text("{}")
    stages = {"sft": {"kind": "sft", "model": {"path": str(folder)}, "data": rows, "steps": 1}}
    assert "sft" in found_in(parse_recipe({"name": "t", "stages": stages}, "t.yaml"))
