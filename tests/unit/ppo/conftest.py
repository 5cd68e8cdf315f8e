"""Tiny models made on the spot, with weights large enough that every position matters."""

import pytest
import torch
from arranged import config_in, learner_in, save_models
from transformers import LlamaConfig, LlamaForCausalLM

from alignment.generation.engine import Completion

torch.set_num_threads(1)


@pytest.fixture
def tiny_model():
    """`tiny_model(kv_heads=2, seed=0)` -> a Llama of two layers, vocabulary 40."""

    def make(kv_heads=2, seed=0):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=40,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=kv_heads,
            intermediate_size=48,
            max_position_embeddings=64,
            initializer_range=0.3,
            tie_word_embeddings=True,
        )
        return LlamaForCausalLM(config).eval()

    return make


@pytest.fixture
def answers():
    """`answers(count, seed)` -> completions of random tokens, prompts of 1 to 6 and responses of 1 to 12."""

    def make(count, seed=0):
        generator = torch.Generator().manual_seed(seed)

        def ids(longest):
            length = int(torch.randint(1, longest + 1, (1,), generator=generator))
            return torch.randint(3, 40, (length,), generator=generator).tolist()

        made = []
        for _ in range(count):
            response = ids(12)
            made.append(Completion(ids(6), response, [-1.0] * len(response), len(response) < 12))
        return made

    return make


@pytest.fixture
def on_the_cpu(monkeypatch):
    """There numbers are the same to the bit, on machines with a GPU, too."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def inputs(tiny_model, tmp_path):
    """Policy and reward model, as a stage finds them."""
    return save_models(tmp_path, tiny_model())


@pytest.fixture
def made(inputs, tmp_path, on_the_cpu):
    """`made(arrangement, **options)` -> (learner, config)"""

    def make(arrangement="separate", **options):
        config = config_in(arrangement, **options)
        return learner_in(inputs, config, tmp_path / "run"), config

    return make
