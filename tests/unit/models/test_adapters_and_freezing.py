"""What is trained and what is not: every kind of adapter learns and merges into the same model; frozen weights stay to the bit."""

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.core.errors import ModelError
from alignment.data.rows import write_rows
from alignment.models.config import FreezeConfig, PeftConfig
from alignment.models.load import load_causal_lm, load_tokenizer, parameter_counts, save_model
from alignment.sft.config import SFTConfig
from alignment.sft.stage import run

ROWS = [{"prompt": "the cow", "completion": " is red"}, {"prompt": "who runs", "completion": " no dog runs yes"}]
METHODS = ("lora", "rslora", "dora", "ia3")


@pytest.mark.parametrize("method", METHODS)
def test_a_trained_adapter_merges_into_a_model_that_says_the_same(tiny_folder, tmp_path, method):
    model = load_causal_lm(tiny_folder, peft=PeftConfig(method=method), seed=1)
    tokens = torch.arange(1, 9)[None]
    before = model.eval()(tokens).logits.detach()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    trained = model(tokens).logits.detach()
    assert (trained - before).abs().max() > 1e-3
    save_model(model, load_tokenizer(tiny_folder), tmp_path)
    torch.testing.assert_close(load_causal_lm(tmp_path).eval()(tokens).logits, trained, atol=2e-5, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_adapter_learns(tiny_folder, tmp_path, method):
    write_rows(ROWS, tmp_path / "rows.jsonl")
    base = {"model": {"path": str(tiny_folder)}, "data": {"path": str(tmp_path / "rows.jsonl")}, "batch_size": 2}
    rate = 0.3 if method == "ia3" else 3e-2
    config = SFTConfig.model_validate(base | {"steps": 40, "learning_rate": rate, "peft": {"method": method}})
    summary = run(config, {"model": Artifact("model", "m", tiny_folder)}, Context.at(tmp_path / "out"))
    assert summary["train_loss"] < 0.75 * 3.2  # ln of 25 words is where it starts
    assert summary["trainable_parameters"] < summary["parameters"] / 3


def test_ranks_and_scales():
    """rsLoRA divides alpha by the root of r; ia3 has neither."""
    scaled = {method: load_scaling(method) for method in ("lora", "rslora")}
    assert scaled == {"lora": 16 / 8, "rslora": pytest.approx(16 / 8**0.5)}
    with pytest.raises(ValidationError, match="ia3 has no rank"):
        PeftConfig(method="ia3", r=4)


def load_scaling(method):
    from peft.tuners.lora import LoraConfig, LoraModel

    from alignment.models.adapters import _configuration

    layer = torch.nn.Sequential(torch.nn.Linear(4, 4))
    configuration = _configuration(PeftConfig(method=method, target_modules=["0"]), "CAUSAL_LM", ())
    assert isinstance(configuration, LoraConfig)
    return LoraModel(layer, configuration, "default").model[0].scaling["default"]


def test_frozen_layers_stay_to_the_bit_and_the_others_learn(tiny_folder, tmp_path):
    write_rows(ROWS, tmp_path / "rows.jsonl")
    base = {"model": {"path": str(tiny_folder)}, "data": {"path": str(tmp_path / "rows.jsonl")}, "batch_size": 2}
    config = SFTConfig.model_validate(base | {"steps": 3, "learning_rate": 1e-2, "freeze": {"layers": 1}})
    run(config, {"model": Artifact("model", "m", tiny_folder)}, Context.at(tmp_path / "out"))
    old, new = (load_file(folder / "model.safetensors") for folder in (tiny_folder, tmp_path / "out"))
    same = {name for name in old if torch.equal(old[name], new[name])}
    assert same == {name for name in old if ".layers.0." in name or "embed" in name}


def test_patterns_name_weights_and_what_names_none_is_refused(tiny_folder):
    everything = parameter_counts(load_causal_lm(tiny_folder))["trainable_parameters"]
    model = load_causal_lm(tiny_folder, freeze=FreezeConfig(patterns=["*.mlp.*"]))
    mlp = sum(p.numel() for name, p in model.named_parameters() if ".mlp." in name)
    assert parameter_counts(model)["trainable_parameters"] == everything - mlp
    for wrong, message in [
        (FreezeConfig(patterns=["*.nowhere"]), "names no weight"),
        (FreezeConfig(patterns=["*"]), "every weight is frozen"),
        (FreezeConfig(layers=3), "3 layers of a model that has 2"),
    ]:
        with pytest.raises(ModelError, match=message):
            load_causal_lm(tiny_folder, freeze=wrong)
    with pytest.raises(ValidationError, match="nothing to freeze"):
        FreezeConfig()


def test_ia3_on_layers_of_ones_own_choice_can_be_read_back(tiny_folder, tmp_path):
    """peft adds `down_proj` as feed-forward, and then refuses the saved adapter since that is no target."""
    model = load_causal_lm(tiny_folder, peft=PeftConfig(method="ia3", target_modules=["k_proj", "v_proj"]))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.3)
    tokens = torch.arange(1, 9)[None]
    trained = model.eval()(tokens).logits.detach()
    save_model(model, load_tokenizer(tiny_folder), tmp_path)
    torch.testing.assert_close(load_causal_lm(tmp_path).eval()(tokens).logits, trained, atol=2e-5, rtol=0)
