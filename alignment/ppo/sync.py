"""New weights for the rollout engine after every update, and the proof that they have arrived."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from alignment.core.errors import SuiteError
from alignment.generation.engine import Completion, Engine
from alignment.ppo.adapters import save_adapter
from alignment.ppo.config import PPOConfig
from alignment.ppo.learner import Learner

_TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}
_PROBES = 4


def send_weights(engine: Engine, learner: Learner, config: PPOConfig, scratch: Path) -> None:
    """The policy as it is now: merged weights, or the adapter alone. A server that all processes share is sent to once."""
    engine.wake()
    shared = config.rollout.engine == "vllm_server"
    if config.rollout.lora == "adapter":
        assert learner.policy.adapter is not None
        folder = scratch / ("adapter" if shared else f"adapter-{learner.world.rank}")
        if learner.world.main or not shared:
            save_adapter(learner.policy.lm, learner.policy.adapter, folder)
        learner.world.barrier()
        engine.load_adapter(folder)
    elif shared and not learner.world.main:
        for _ in learner.engine_weights():  # gathering sharded weights takes all processes
            pass
    else:
        engine.load_weights(learner.engine_weights())
    learner.world.barrier()


@torch.no_grad()
def require_sync(engine: Engine, learner: Learner, completions: Sequence[Completion], config: PPOConfig) -> float:
    """Mean |difference| of log-probabilities between engine and trainer on the batch's longest sequences, at temperature 1.

    Raises SuiteError above the tolerance: the engine then samples from other weights than those that are trained.
    """
    sequences = sorted((c.prompt_ids + c.response_ids[:-1] for c in completions), key=len)[-_PROBES:]
    sequences = [ids for ids in sequences if len(ids) > 1] or [completions[0].prompt_ids + completions[0].response_ids]
    by_engine = engine.logprobs(sequences)
    probes = [Completion(ids[:1], ids[1:], numbers, True) for ids, numbers in zip(sequences, by_engine, strict=True)]
    difference, tokens = 0.0, 0
    for pack in learner.packs_for_all(probes):
        by_trainer = learner.policy(pack, 1.0).logprobs
        expected = torch.tensor(
            [number for row in pack.rows for number in probes[row].logprobs], device=by_trainer.device
        )
        difference += float((by_trainer - expected).abs().sum())
        tokens += len(expected)
    gap, tolerance = difference / tokens, config.sync_tolerance or _tolerance(config)
    if not gap <= tolerance:
        raise SuiteError(
            "ppo",
            f"weights were not synchronised: after an update {engine.name} and the trainer differ by {gap:.2g} in mean "
            "log-probability",
            f"at most {tolerance:g} in {config.precision}",
            "set rollout.engine: hf; if the difference is rounding of a larger model, raise sync_tolerance",
        )
    return gap


def _tolerance(config: PPOConfig) -> float:
    """On a GPU layers of 8 bits round their inputs, too, which no engine's weights can express."""
    exact = config.quantization is None or config.quantization.bits != 8
    return _TOLERANCE[config.engine_precision if exact else "bf16"]
