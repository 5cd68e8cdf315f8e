"""Random models in known architectures: of the sizes asked for, the same for the same seed, and fit to be trained."""

import json

import pytest
import torch
from safetensors.torch import load_file

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.core.errors import RecipeError
from alignment.untrained.config import UntrainedConfig
from alignment.untrained.stage import run
from recipes.schema import parse_recipe


def untrained(tiny_folder, out, seed=0, **settings):
    config = UntrainedConfig.model_validate({"tokenizer": {"path": "t"}} | settings)
    return run(config, {"tokenizer": Artifact("model", "t", tiny_folder)}, Context.at(out, seed))


@pytest.mark.parametrize(
    ("architecture", "sizes", "kind"),
    [
        ("distilbert", {"dim": 16, "hidden_dim": 24, "n_layers": 1, "n_heads": 2}, "DistilBertForMaskedLM"),
        ("gpt2", {"n_embd": 16, "n_layer": 1, "n_head": 2}, "GPT2LMHeadModel"),
        ("t5", {"d_model": 16, "d_ff": 24, "d_kv": 8, "num_layers": 1, "num_heads": 2}, "T5ForConditionalGeneration"),
    ],
)
def test_it_is_of_the_architecture_and_size_asked_for(tiny_folder, tmp_path, architecture, sizes, kind):
    summary = untrained(tiny_folder, tmp_path, architecture=architecture, sizes=sizes)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == [kind]
    assert config["vocab_size"] == 26
    assert {name: config[name] for name in sizes} == sizes
    assert 0 < summary["parameters"] < 100_000
    assert (tmp_path / "tokenizer.json").exists()


def test_its_weights_follow_from_the_seed_alone(tiny_folder, tmp_path):
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2}
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        torch.manual_seed(len(name))
        untrained(tiny_folder, tmp_path / name, seed, architecture="gpt2", sizes=sizes)
    one, again, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "again", "other"))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["transformer.wte.weight"], other["transformer.wte.weight"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "distilbertt"}, "no language model of type 'distilbertt'"),
        ({"architecture": "gpt2", "sizes": {"dim": 8}}, r"sizes\.dim: gpt2 has no such size"),
        ({"architecture": "distilbert", "sizes": {"dim": 10, "n_heads": 3}}, r"sizes: config\.n_heads 3 must divide config\.dim 10"),
        (
            {"architecture": "llama", "sizes": {"hidden_size": 10, "num_attention_heads": 3}},
            r"sizes: The hidden size \(10\) is not a multiple of the number of attention heads \(3\)",
        ),
        ({"architecture": "encoder-decoder"}, "architecture: encoder-decoder is put together from several models"),
        ({"architecture": "gpt2", "sizes": {"vocab_size": 25}}, r"sizes\.vocab_size: 25 is less than the tokenizer has\n.*: 26 or"),
    ],
)  # fmt: skip
def test_what_cannot_be_laid_out_is_told(tiny_folder, tmp_path, settings, message):
    with pytest.raises(RecipeError, match=message) as told:
        untrained(tiny_folder, tmp_path, **settings)
    assert told.value.expected and told.value.remedy


def test_a_vocabulary_may_be_larger_than_the_tokenizers(tiny_folder, tmp_path):
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 32}
    untrained(tiny_folder, tmp_path, architecture="gpt2", sizes=sizes)
    assert load_file(tmp_path / "model.safetensors")["transformer.wte.weight"].shape == (32, 16)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_hidden_layers": -1}, r"sizes\.num_hidden_layers: not valid: got .*\n.*Input should be greater than 0"),
        ({"num_hidden_layers": 0}, r"sizes\.num_hidden_layers: not valid: got .*\n.*Input should be greater than 0"),
        ({"hidden_size": 1.5}, r"sizes\.hidden_size: not valid: got .*\n.*Input should be a valid integer"),
        ({"pad_token_id": 7}, "pad_token_id is no size: it comes from the tokenizer"),
    ],
)
def test_what_is_no_size_is_refused_before_anything_runs(sizes, message):
    stage = {"kind": "untrained", "architecture": "llama", "tokenizer": {"path": "t"}, "sizes": sizes}
    with pytest.raises(RecipeError, match=message):
        parse_recipe({"name": "test/sizes", "stages": {"base": stage}}, "recipe.yaml")
