"""Bytes of each part of PPO's models, by what is really held: shared weights count once, where they are first met."""

from __future__ import annotations

from typing import Any

from torch import nn

from alignment.ppo.learner import Learner


def memory_by_part(learner: Learner, scorer: Any) -> dict[str, int]:
    """Bytes of weights, gradients and optimiser state on this process. Activations and the rollout engine come on top.

    scorer: its weights are counted where it shows them as `model`.
    """
    seen: set[int] = set()
    parts = {
        "policy": _weights(learner.policy, seen),
        "reference": _weights(learner.reference, seen),
        "critic": _weights(learner.critic, seen),
        "reward model": _weights(getattr(scorer, "model", None), seen),
    }
    for optimizer in (learner.policy_optimizer, learner.critic_optimizer):
        for name, size in optimizer.memory.items():
            parts[name] = parts.get(name, 0) + size
    return parts | {"total": sum(parts.values())}


def memory_line(arrangement: str, parts: dict[str, int]) -> str:
    """One line for the log, in MiB."""
    numbers = ", ".join(f"{name} {size / 2**20:,.1f}" for name, size in parts.items())
    return f"arrangement {arrangement}, MiB: {numbers} (activations and the rollout engine come on top)"


def _weights(module: nn.Module | None, seen: set[int]) -> int:
    total = 0
    for weight in module.parameters() if module is not None else ():
        local = weight.to_local() if hasattr(weight, "to_local") else weight  # type: ignore[operator]
        if local.data_ptr() not in seen:
            seen.add(local.data_ptr())
            total += local.numel() * local.element_size()
    return total
