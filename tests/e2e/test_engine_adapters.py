"""LoRA adapters served by vLLM in process, against peft's own forward pass."""

import importlib.util
from contextlib import closing

import pytest
from engine_helpers import SIZES, adapted, by_model, changed, gap, judged, load, probes_of
from ppo_models import prompts_of, save_tiny_model

from alignment.core.errors import ModelError
from alignment.generation.engine import Sampling
from alignment.generation.open import open_engine

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
SAMPLING = Sampling(max_new_tokens=16, temperature=0.7, seed=3)


@needs_vllm
@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_replaces_the_one_before_and_weights_replace_the_adapter(tied, tmp_path):
    folder = save_tiny_model(tmp_path / "model", tied, eos_bias=4.0 if tied else 1.0)
    prompts, probes = prompts_of(24), probes_of(prompts_of(9))
    with closing(open_engine("vllm", folder, adapter_rank=6, **SIZES)) as engine:
        assert gap(engine.logprobs(probes), judged(load(folder), probes)) < 1e-4
        for seed, options in enumerate(
            [{"r": 6}, {"r": 2, "use_rslora": True, "target_modules": ["q_proj", "down_proj"]}]
        ):
            model = adapted(folder, tmp_path / str(seed), seed, **options)
            assert gap(engine.logprobs(probes), judged(model, probes)) > 0.1
            engine.load_adapter(tmp_path / str(seed))
            assert gap(engine.logprobs(probes), judged(model, probes)) < 1e-4
            completions = engine.generate(prompts, SAMPLING)
            assert gap([c.logprobs for c in completions], by_model(model, completions, 0.7)) < 1e-4
        adapted(folder, tmp_path / "dora", 0, use_dora=True)
        with pytest.raises(ModelError, match="DoRA"):
            engine.load_adapter(tmp_path / "dora")
        assert gap(engine.logprobs(probes), judged(model, probes)) < 1e-4  # the one before still serves; nothing hangs
        trainer = changed(load(folder), seed=1)
        engine.load_weights(trainer.named_parameters())
        assert gap(engine.logprobs(probes), judged(trainer, probes)) < 1e-4


def test_the_hugging_face_engine_says_that_it_takes_whole_weights_only(tiny_folder, tmp_path):
    with (
        closing(open_engine("hf", tiny_folder, **SIZES)) as engine,
        pytest.raises(ModelError, match=r"serves no adapters(.|\n)*send merged weights"),
    ):
        engine.load_adapter(tmp_path)


@pytest.mark.parametrize("name", ["hf", pytest.param("vllm", marks=needs_vllm)])
def test_a_weight_left_out_is_told(name, tmp_path):
    """vLLM holds query, key and value in one matrix: without this, new queries would come with garbage for keys."""
    folder = save_tiny_model(tmp_path / "model")
    weights = [(name, weight) for name, weight in load(folder).named_parameters() if "k_proj" not in name]
    with closing(open_engine(name, folder, **SIZES)) as engine, pytest.raises(ValueError, match="2 of 20 weights"):
        engine.load_weights(weights)
