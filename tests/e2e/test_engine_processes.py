"""vLLM in process under torchrun: two processes sample together what one would."""

import importlib.util
import json
from contextlib import closing

import pytest
from engine_helpers import SIZES, changed, gap, in_two_processes, load
from ppo_models import prompts_of, save_tiny_model

from alignment.generation.engine import Sampling
from alignment.generation.open import open_engine


@pytest.mark.slow  # two more Python processes that import vLLM
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_two_processes_sample_what_one_would_and_keep_their_process_group(tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    in_two_processes("engine_process.py", folder, tmp_path)
    for seed in (1, 2):
        with closing(open_engine("vllm", folder, **SIZES)) as engine:
            engine.load_weights(changed(load(folder), seed).named_parameters())
            alone = engine.generate(prompts_of(8), Sampling(max_new_tokens=16, temperature=0.7, seed=seed))
        together = [answer for rank in (0, 1) for answer in json.loads((tmp_path / f"{seed}-{rank}.json").read_text())]
        assert [response for response, _ in together] == [c.response_ids for c in alone]
        assert gap([logprobs for _, logprobs in together], [c.logprobs for c in alone]) < 1e-4
