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
        ({"architecture": "distilbert", "sizes": {"dim": 10, "n_heads": 3}}, "sizes: "),
    ],
)
def test_what_cannot_be_laid_out_is_told(tiny_folder, tmp_path, settings, message):
    with pytest.raises(RecipeError, match=message):
        untrained(tiny_folder, tmp_path, **settings)
