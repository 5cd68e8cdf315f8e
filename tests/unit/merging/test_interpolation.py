import pytest
import torch
from safetensors.torch import load_file, save_file

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.core.errors import ModelError
from alignment.merging.config import InterpolateConfig
from alignment.merging.stage import run
from alignment.models.load import load_causal_lm, load_tokenizer, save_model


@pytest.fixture
def tuned(tiny_folder, tmp_path):
    model = load_causal_lm(tiny_folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    save_model(model, load_tokenizer(tiny_folder), tmp_path / "tuned")
    return tmp_path / "tuned"


def interpolated(tiny_folder, tuned, factor, folder):
    config = InterpolateConfig(model={"path": "a"}, tuned={"path": "b"}, factor=factor)
    inputs = {"model": Artifact("model", "a", tiny_folder), "tuned": Artifact("model", "b", tuned)}
    summary = run(config, inputs, Context.at(folder))
    return load_file(folder / "model.safetensors"), summary


@pytest.mark.parametrize("factor", [0.0, 0.25, 1.0])
def test_weights_lie_on_the_line(tiny_folder, tuned, tmp_path, factor):
    weights, summary = interpolated(tiny_folder, tuned, factor, tmp_path / "out")
    start = load_file(tiny_folder / "model.safetensors")
    for name, weight in weights.items():
        torch.testing.assert_close(weight, start[name] + factor, atol=1e-6, rtol=0)
    count = sum(weight.numel() for weight in weights.values())
    assert summary["distance"] == pytest.approx(count**0.5, rel=1e-6)  # every weight is 1 away


def test_models_that_do_not_correspond_are_refused(tiny_folder, tuned, tmp_path):
    weights = load_file(tuned / "model.safetensors")
    config = (tuned / "config.json").read_text().replace('"intermediate_size": 128', '"intermediate_size": 64')
    (tuned / "config.json").write_text(config)
    smaller = {
        key: w[:64]
        if key.endswith(("up_proj.weight", "gate_proj.weight"))
        else w[:, :64]
        if key.endswith("down_proj.weight")
        else w
        for key, w in weights.items()
    }
    save_file(
        {key: weight.contiguous() for key, weight in smaller.items()}, tuned / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ModelError, match=r"6 weights differ in name or shape"):
        interpolated(tiny_folder, tuned, 0.5, tmp_path / "out")
