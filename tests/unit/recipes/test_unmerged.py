"""A model whose adapter cannot be merged may be measured, sampled from by transformers and be a reference; nothing goes on from it."""

import json

import pytest

from alignment.core.errors import RecipeError
from recipes.external import Externals
from recipes.plan import make_plan
from recipes.schema import parse_recipe

PREFIX = {"method": "prefix", "virtual_tokens": 8}


@pytest.fixture
def plan(tmp_path):
    """Of a recipe with a prefix-tuned stage `soft` and one stage more."""
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    rows = {"path": str(tmp_path / "rows.jsonl")}

    def make(**last):
        stages = {
            "base": {"kind": "pretrain", "seed": 0},
            "soft": {"kind": "sft", "model": {"stage": "base"}, "data": rows, "steps": 1, "peft": PREFIX},
            "last": {key: rows if value == "rows" else value for key, value in last.items()},
        }
        recipe = {"name": "t", "stages": stages, "evaluation": {"models": ["base", "soft"], "target": ["lab_service"]}}
        return make_plan(parse_recipe(recipe, "t.yaml"), Externals())

    return make


@pytest.mark.parametrize(
    "last",
    [
        {"kind": "sft", "data": "rows", "steps": 1},
        {"kind": "dpo", "data": "rows", "steps": 1},
        {"kind": "reward", "data": "rows"},
        {"kind": "ppo", "reward": {"path": "r"}, "prompts": {"lab": "guests"}},
        {"kind": "grpo", "reward": {"path": "r"}, "prompts": {"lab": "guests"}},
        {"kind": "interpolate", "tuned": {"stage": "base"}, "factor": 0.5},
    ],
    ids=lambda last: last["kind"],
)
def test_nothing_is_trained_or_made_from_it(plan, last, tmp_path):
    if "reward" in last:
        folder = tmp_path / "reward"
        folder.mkdir()
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            (folder / name).write_text("{}")
        last = last | {"reward": {"path": str(folder)}}
    message = rf"stages.last.model: .* cannot be merged .* a stage of kind {last['kind']} cannot go on from it"
    with pytest.raises(RecipeError, match=message):
        plan(model={"stage": "soft"}, **last)


def test_it_is_sampled_from_by_transformers_alone(plan):
    sampling = {"kind": "preferences", "model": {"stage": "soft"}, "prompts": "rows", "gold": "lab_service"}
    with pytest.raises(RecipeError, match=r"stages.last.engine: .* vLLM cannot serve it[\s\S]*set engine: hf"):
        plan(**sampling, engine="vllm")
    assert plan(**sampling, engine="hf").cells


def test_it_can_be_a_reference_and_a_count_of_tokens(plan):
    train = {"model": {"stage": "base"}, "data": "rows"}
    assert plan(kind="dpo", **train, steps=1, reference={"stage": "soft"}).cells
    assert plan(kind="sft", **train, match_tokens={"stage": "soft"}).cells


def test_a_folder_with_such_a_model_is_known_by_all_its_parts(tmp_path):
    for name in ("base/config.json", "base/model.safetensors", "adapter/adapter_model.safetensors", "tokenizer.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    from alignment.core.config import ModelRef

    def digest():
        return Externals().model(ModelRef(path=str(tmp_path)), "x").digest

    before = digest()
    (tmp_path / "adapter/adapter_model.safetensors").write_text("other")
    assert digest() != before
    recipe = {"name": "t", "stages": {"last": {"kind": "interpolate", "model": {"path": str(tmp_path)}, "factor": 0.5}}}
    recipe["stages"]["last"]["tuned"] = {"path": str(tmp_path)}
    with pytest.raises(RecipeError, match="cannot go on from it"):
        make_plan(parse_recipe(recipe, "t.yaml"), Externals())
