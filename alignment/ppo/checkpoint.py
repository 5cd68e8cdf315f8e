"""A checkpoint holds everything that the rest of a run depends on.

Shuffles, prompts and sampler seeds are derived from the cell's seed and the step, so the number of finished steps stands for
the data position and for all of their random states.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignment.ppo.learner import Learner

_FILE = "checkpoint.pt"


def save_checkpoint(folder: Path, learner: Learner, totals: dict[str, float]) -> None:
    """Replaces the folder's checkpoint in one atomic step: a kill at any instant leaves the old one or the new one.

    totals: running sums of the run, `steps` (finished) among them.
    """
    temporary = folder / f"{_FILE}.tmp"
    with temporary.open("wb") as file:
        torch.save(_state(learner, totals), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / _FILE)


def load_checkpoint(folder: Path, learner: Learner) -> dict[str, float] | None:
    """Brings the learner and every library's random state to where the checkpoint was made. Returns its totals; None if
    there is no checkpoint."""
    if not (folder / _FILE).exists():
        return None
    state = torch.load(folder / _FILE, map_location=learner.device, weights_only=True)
    learner.policy_optimizer.restore(state["policy"])
    learner.critic_optimizer.restore(state["critic"])
    learner.kl_coefficient = state["kl_coefficient"]
    _set_random_states(state["random"])
    return state["totals"]


def _state(learner: Learner, totals: dict[str, float]) -> dict[str, Any]:
    return {
        "policy": learner.policy_optimizer.state(),
        "critic": learner.critic_optimizer.state(),
        "kl_coefficient": learner.kl_coefficient,
        "random": _random_states(),
        "totals": dict(totals),
    }


def _random_states() -> dict[str, Any]:
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_states(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"]:
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
