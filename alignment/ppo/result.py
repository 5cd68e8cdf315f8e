"""What PPO leaves behind: the policy, as a plain model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from alignment.models.load import load_causal_lm, read_config, save_model
from alignment.ppo.adapters import POLICY
from alignment.ppo.learner import Learner


def save_policy(learner: Learner, origin: Path, tokenizer: Any, folder: Path) -> None:
    """Writes the policy in the dtype that it came in, whatever it was trained in: precision says how to compute, not what to
    leave behind. Ends the training: there are no more steps after this. All processes must call it."""
    learner.policy_optimizer.use_masters()
    lm: Any = learner.policy.lm
    if learner.policy.adapter is not None:
        for other in [name for name in lm.peft_config if name != POLICY]:
            lm.delete_adapter(other)
    elif learner.even:
        weights = dict(learner.engine_weights())
        lm = load_causal_lm(origin)
        with torch.no_grad():
            for name, weight in lm.named_parameters():
                weight.copy_(weights[name])
    if learner.world.main:
        save_model(lm if learner.policy.adapter is not None else lm.to(read_config(origin).dtype), tokenizer, folder)
    learner.world.barrier()
