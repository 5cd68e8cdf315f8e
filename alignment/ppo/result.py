"""What PPO leaves behind: the policy, as a plain model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from alignment.models.load import load_causal_lm, read_config, save_model
from alignment.ppo.learner import Learner


def save_policy(learner: Learner, origin: Path, tokenizer: Any, folder: Path) -> None:
    """Writes the policy as it is now, in the dtype that it came in, whatever it is trained in: precision says how to compute, not
    what to leave behind. The learner stays as it was. All processes must call it."""
    with learner.policy_optimizer.true_weights():
        if learner.policy.adapter is None:
            weights = dict(learner.engine_weights())  # sharded ones are gathered by all processes
            if learner.world.main:
                save_model(_copy(origin, weights), tokenizer, folder)
        elif learner.world.main:
            save_model(learner.policy.lm, tokenizer, folder)
    learner.world.barrier()


@torch.no_grad()
def _copy(origin: Path, weights: dict[str, torch.Tensor]) -> Any:
    """The model of that folder with other weights."""
    lm = load_causal_lm(origin)
    for name, weight in lm.named_parameters():
        weight.copy_(weights[name])
    return lm.to(read_config(origin).dtype)
