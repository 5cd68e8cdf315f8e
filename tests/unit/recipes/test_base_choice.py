"""`align compare A B --recipe R`: two base models on a recipe's tasks before any training, measured for real."""

import io
import json
import shutil

import pytest
import transformers
import yaml
from rich.console import Console
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.core.errors import RecipeError
from alignment.core.store import Store
from alignment.data.rows import write_rows
from alignment.models.load import load_causal_lm
from eval import cost
from eval.cost_config import CostConfig
from recipes.base_choice import choose_base
from recipes.cli import app


@pytest.fixture
def recipe(tmp_path):
    """A recipe of an untrained stage, two tasks of its own rows, and one that needs what a stage makes."""
    write_rows([{"text": f"the cow is {word}"} for word in ("red", "blue", "big", "small")], tmp_path / "texts.jsonl")
    choices = [{"q": "why the", "c": ["cow", "dog"], "a": n % 2} for n in range(6)]
    write_rows(choices, tmp_path / "choices.jsonl")
    animals = {"metric": "choices", "data": {"path": str(tmp_path / "choices.jsonl")}}
    made = {"kind": "excerpts", "model": {"stage": "base"}, "data": {"path": str(tmp_path / "texts.jsonl")}}
    raw = {
        "name": "test/choice",
        "stages": {"base": {"kind": "pretrained", "model": {"path": "nowhere"}}, "cut": made},
        "evaluation": {
            "models": ["base"],
            "target": ["animals", "openings"],
            "retained": ["texts"],
            "tasks": {
                "animals": animals | {"prompt": "{q}", "choices": "c", "answer": "a"},
                "openings": {"metric": "gold", "gold": "vader", "data": {"stage": "cut"}},
                "texts": {"metric": "bits_per_byte", "data": {"path": str(tmp_path / "texts.jsonl")}},
            },
        },
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(raw))
    return str(tmp_path / "recipe.yaml")


def test_two_bases_side_by_side(recipe, tiny_folder, tmp_path, capsys):
    worse = tmp_path / "worse"
    shutil.copytree(tiny_folder, worse)
    weights = load_file(worse / "model.safetensors")
    save_file({name: value * 2 for name, value in weights.items()}, worse / "model.safetensors", {"format": "pt"})
    shutil.copytree(tiny_folder, tmp_path / "tiny")
    names, store = [str(tmp_path / "tiny"), str(worse)], tmp_path / "runs"
    choose_base(names, recipe, [], 4, store, Console(file=io.StringIO()), True)
    found = json.loads(capsys.readouterr().out)
    first, second = found["bases"]
    assert found["left_out"] == ["openings"]
    assert (first["name"], second["name"]) == ("tiny", "worse")
    assert first["scores"].keys() == second["scores"].keys() == {"animals", "texts"}
    assert first["scores"]["texts"]["value"] < second["scores"]["texts"]["value"]
    assert first["scores"]["animals"]["n"] == 4 and first["scores"]["animals"]["interval"][0] <= 0.5
    parameters = sum(parameter.numel() for parameter in load_causal_lm(tiny_folder).parameters())
    assert first["parameters"] == parameters and first["train_bytes"] == 16 * parameters
    assert min(first["read_per_second"], first["written_per_second"]) > 0
    cells = [manifest for _, manifest in Store(store).manifests()]
    assert sorted(cell["kind"] for cell in cells) == ["cost", "cost", "evaluation", "evaluation"]

    out = Console(file=io.StringIO(), width=120)
    choose_base(names, recipe, [], 4, store, out, False)  # nothing is measured again
    shown = out.file.getvalue()  # type: ignore[attr-defined]
    assert len(list(Store(store).manifests())) == 4
    for word in ("animals (acc)", "texts (bits_per_byte)", "tokens written a second", "memory to train", "openings"):
        assert word in shown


def test_memory_and_speed_are_of_the_model(tiny_folder, tmp_path):
    config = CostConfig(model={"path": "m"}, machine="here", sequences=64, tokens=32, new_tokens=4, repeats=1)  # type: ignore[arg-type]
    summary = cost.run(config, {"model": Artifact("model", "m", tiny_folder)}, Context.at(tmp_path))
    assert summary["weights_bytes"] == 4 * summary["parameters"]
    assert summary["tokens"] == 32
    assert summary["read_per_second"] > summary["written_per_second"] > 0
    assert 0 <= summary["peak_memory_mib"] < 1024
    long = config.model_copy(update={"tokens": 1000})
    assert cost.run(long, {"model": Artifact("model", "m", tiny_folder)}, Context.at(tmp_path))["tokens"] == 64 - 4


def test_what_cannot_be_measured_before_training_is_told(recipe, tiny_folder, tmp_path):
    out = Console(file=io.StringIO())
    with pytest.raises(RecipeError, match="all its tasks need what its stages make"):
        overrides = ["evaluation.target=[openings]", "evaluation.retained=[]"]
        choose_base([str(tiny_folder)], recipe, overrides, None, tmp_path / "runs", out, False)
    with pytest.raises(RecipeError, match="has no tasks"):
        choose_base([str(tiny_folder)], recipe, ["evaluation=null"], None, tmp_path / "runs", out, False)


def test_all_models_that_do_not_generate_are_refused_before_any_is_measured(recipe, tiny_folder, tmp_path):
    sizes = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "vocab_size": 26,
    }
    transformers.BertForMaskedLM(transformers.BertConfig(**sizes)).save_pretrained(tmp_path / "encoder")
    small = {"d_model": 8, "d_ff": 8, "d_kv": 4, "num_layers": 1, "num_heads": 2, "vocab_size": 26}
    transformers.T5ForConditionalGeneration(transformers.T5Config(**small)).save_pretrained(tmp_path / "t5")
    names, store = [str(tmp_path / "encoder"), str(tiny_folder), str(tmp_path / "t5")], tmp_path / "runs"
    with pytest.raises(RecipeError) as told:
        choose_base(names, recipe, [], 4, store, Console(file=io.StringIO()), False)
    assert f"{names[0]}: BertForMaskedLM (a model of type 'bert') does not generate text" in told.value.what
    assert f"{names[2]}: T5ForConditionalGeneration (a model of type 't5') does not generate text" in told.value.what
    assert names[1] not in str(told.value) and told.value.expected and told.value.remedy
    assert not list(Store(store).manifests())


def test_a_model_of_the_hub_that_lies_in_the_cache_is_refused_at_once(recipe, tiny_folder, tmp_path, monkeypatch):
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "config.json").write_text('{"model_type": "bert", "architectures": ["BertForMaskedLM"]}')
    monkeypatch.setattr("recipes.base_choice.cached_snapshot", lambda reference: tmp_path / "snapshot")
    with pytest.raises(RecipeError, match="hub:some/encoder: BertForMaskedLM"):
        names = ["hub:some/encoder", str(tiny_folder)]
        choose_base(names, recipe, [], 4, tmp_path / "runs", Console(file=io.StringIO()), False)


@pytest.mark.parametrize(
    "words",
    [("a", "--recipe", "r", "--tasks", "t"), ("a", "--recipe", "r", "--margin", "0.1"), ("a", "b", "--set", "x=1")],
)
def test_options_that_would_be_ignored_are_refused(words):
    assert CliRunner().invoke(app, ["compare", *words]).exit_code == 2
    assert "belongs to two models" in (said := CliRunner().invoke(app, ["compare", *words]).output) or "--set" in said
