"""How a language model turns its last hidden states into logits."""

from __future__ import annotations

from typing import Any

import torch

_AGREEMENT = 1e-4


@torch.no_grad()
def head_is_plain(lm: Any) -> bool:
    """Whether the logits are the output embeddings times the last hidden state, and nothing more: some models scale or cap
    them. Tried on three tokens."""
    head = lm.get_output_embeddings()
    if head is None:
        return False
    tokens = torch.tensor([[0, 1, 2]], device=next(lm.parameters()).device)
    expected = lm(tokens, use_cache=False).logits.float()
    states = lm.base_model(tokens, use_cache=False).last_hidden_state
    return bool((head(states).float() - expected).norm() <= _AGREEMENT * expected.norm())
