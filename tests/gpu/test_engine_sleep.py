"""vLLM's sleep mode: the memory is free while asleep, and the weights are the same after waking."""

import importlib.util
import sys
from contextlib import closing
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from engine_helpers import SIZES, changed, gap, judged, load, probes_of
from ppo_models import prompts_of, save_tiny_model

from alignment.generation.engine import Sampling
from alignment.generation.open import open_engine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: sleep mode frees CUDA memory"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]


def test_an_engine_that_slept_has_its_weights_and_takes_new_ones(tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    prompts, sampling = prompts_of(9), Sampling(max_new_tokens=16, temperature=0.7, seed=3)
    trainer = changed(load(folder), seed=1)
    with closing(open_engine("vllm", folder, **SIZES | {"batch_size": 512})) as engine:
        engine.load_weights(trainer.cuda().named_parameters())
        before = engine.generate(prompts, sampling)
        free_awake = torch.cuda.mem_get_info()[0]
        engine.sleep()
        assert torch.cuda.mem_get_info()[0] > free_awake
        engine.wake()
        assert [c.response_ids for c in engine.generate(prompts, sampling)] == [c.response_ids for c in before]
        engine.load_weights(changed(trainer.cpu(), seed=2).cuda().named_parameters())
        assert gap(engine.logprobs(probes_of(prompts)), judged(trainer.cpu(), probes_of(prompts))) < 1e-2
