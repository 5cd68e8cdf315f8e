"""`align check` says what a recipe's trainings take, as the stages themselves will say it, without loading a model."""

import io
import json
import shutil

import pytest
from huggingface_hub import constants
from rich.console import Console

from alignment.lab.config import PretrainConfig
from alignment.memory.shape import shape_in
from recipes.check import check_recipe
from recipes.external import Externals
from recipes.memory import memory_table, notes, remedies, stage_memory
from recipes.plan import make_plan
from recipes.schema import load_recipe, parse_recipe


def estimates_of(recipe):
    return stage_memory(make_plan(recipe, Externals(fetch=False)), check_recipe(recipe))


def found_in(recipe):
    return estimates_of(recipe).found


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
    estimates = estimates_of(parse_recipe({"name": "t", "stages": stages}, "t.yaml"))
    found = estimates.found
    training, memory = found["sft"]
    assert training.shape == shape_in(tiny_folder)
    assert training.tokens == 2 * (12 + 8)
    assert memory.parameters == training.shape.parameters
    assert found["small"][1].trainable == 4 * 64

    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(memory_table(estimates, 24 * 2**30))
    printed = console.export_text().splitlines()
    assert "this machine has 24,576" in printed[0]
    assert printed[2].split()[:2] == ["sft", "100%"] and printed[2].split()[-1] == "fits"
    console.print(memory_table(estimates, 40 * 2**20))
    assert console.export_text().count("too large") == 2
    assert remedies(estimates, 24 * 2**30) == []
    assert remedies(estimates, 40 * 2**20)[0] == "stages.sft: too large: train an adapter: peft: {method: lora}"


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
    estimates = estimates_of(parse_recipe({"name": "t", "stages": stages}, "t.yaml"))
    found = estimates.found
    assert set(found) == {"packed", "replayed"}
    assert notes(estimates) == ["stages.from_new: memory not estimated: stage new has yet to lay it out"]
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


SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache without a network: (name, model folder) puts a model there. The working directory holds a model of its own."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def add(name, folder):
        cached = tmp_path / "cache" / f"models--{name.replace('/', '--')}"
        (cached / "refs").mkdir(parents=True)
        (cached / "refs" / "main").write_text(SHA)
        shutil.copytree(folder, cached / "snapshots" / SHA)

    return add


def test_rows_that_are_not_read_yet_are_assumed_and_said_to_be(tiny_folder, tmp_path, hub):
    wide = tmp_path / "wide"
    shutil.copytree(tiny_folder, wide)
    config = json.loads((wide / "config.json").read_text())
    (wide / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 131_072}))
    stages = {"sft": {"kind": "sft", "model": {"path": str(wide)}, "data": {"hub": "org/rows"}, "steps": 1}}
    stages["short"] = stages["sft"] | {"max_length": 256}
    stages["tiny"] = stages["sft"] | {"model": {"path": str(tiny_folder)}}
    estimates = estimates_of(parse_recipe({"name": "t", "stages": stages}, "t.yaml"))
    assert {stage: training.tokens for stage, (training, _) in estimates.found.items()} == {
        "sft": 32 * 2048,
        "short": 32 * 256,
        "tiny": 32 * 64,
    }
    assert notes(estimates)[:2] == [
        "* stages.sft: rows not read yet: sequences of 2,048 tokens assumed",
        "* stages.short: rows not read yet: sequences of 256 tokens assumed",
    ]
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(memory_table(estimates, 24 * 2**30))
    assert "sft* " in console.export_text()


def test_a_hub_model_is_read_from_the_cache_or_left_out(tiny_folder, rows, hub, monkeypatch):
    monkeypatch.chdir(tiny_folder)  # whose config.json is none of the hub model's
    hub("org/tiny", tiny_folder)
    base = {"kind": "sft", "data": rows, "steps": 1, "batch_size": 2}
    stages = {"known": base | {"model": {"hub": "org/tiny"}}, "unknown": base | {"model": {"hub": "org/none"}}}
    stages["after"] = base | {"model": {"stage": "unknown"}}
    stages |= {name: {"kind": "pretrained", "model": {"hub": f"org/{name}"}} for name in ("far", "tiny")}
    stages |= {f"on_{name}": base | {"model": {"stage": name}} for name in ("far", "tiny")}
    estimates = estimates_of(parse_recipe({"name": "t", "stages": stages}, "t.yaml"))
    assert set(estimates.found) == {"known", "on_tiny"}
    assert estimates.found["known"][0].shape == shape_in(tiny_folder)
    why = "memory not estimated: hub:org/none is not in the local cache"
    far = "stages.on_far: memory not estimated: hub:org/far is not in the local cache"
    assert set(notes(estimates)) == {f"stages.unknown: {why}", f"stages.after: {why}", far}
