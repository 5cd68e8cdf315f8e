import pytest
import torch
from tiny_causal import save_tiny_causal

from alignment.models.load import load_causal_lm, load_tokenizer
from eval.harness import PairedLM


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Folder of a random causal model with a chat template and BOS; its context holds 32 tokens."""
    torch.set_num_threads(1)
    return save_tiny_causal(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def paired_lm(tiny):
    return PairedLM(load_causal_lm(tiny, dropout=False), load_tokenizer(tiny), batch_size=4, sampling_seed=0)
