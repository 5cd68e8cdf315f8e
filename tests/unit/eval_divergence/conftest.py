import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "eval_harness"))
from tiny_causal import save_tiny_causal

from alignment.models.load import load_causal_lm, load_tokenizer, save_model


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    """Folder of a random causal model with a chat template and BOS; its context holds 32 tokens."""
    torch.set_num_threads(1)
    return save_tiny_causal(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="session")
def tiny_moved(tiny_base):
    """The same model, its weights moved a little: what training would have made of it."""
    return save_moved(tiny_base, tiny_base.parent / "moved", by=0.08, seed=1)


@torch.no_grad()
def save_moved(source, folder, by, seed):
    model, noise = load_causal_lm(source), torch.Generator().manual_seed(seed)
    for weights in model.parameters():
        weights += by * torch.randn(weights.shape, generator=noise)
    save_model(model, load_tokenizer(source), folder)
    return folder


@pytest.fixture(scope="session")
def moved_by():
    return save_moved
