"""New weights for the rollout engine after every update, and the proof that they have arrived."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from alignment.core.errors import SuiteError
from alignment.generation.engine import Completion, Engine
from alignment.ppo.adapters import save_adapter
from alignment.ppo.config import PPOConfig
from alignment.ppo.learner import Learner

_TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}
_PROBES = 4
_DEVIATIONS, _FEWEST = (
    6.0,
    32,
)  # standard errors that are no chance in thousands of updates, if so many tokens were looked at


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


class Probe:
    """A batch's longest sequences, and what the trainer said to them before an update: to see afterwards whether the engine
    has the new weights. Log-probabilities at temperature 1."""

    def __init__(self, learner: Learner, completions: Sequence[Completion]) -> None:
        sequences = sorted((c.prompt_ids + c.response_ids[:-1] for c in completions), key=len)[-_PROBES:]
        self._sequences = [ids for ids in sequences if len(ids) > 1] or [
            completions[0].prompt_ids + completions[0].response_ids
        ]
        self._before = self._by_trainer(learner)

    def require_sync(self, engine: Engine, learner: Learner, config: PPOConfig) -> float:
        """Mean |difference| of log-probabilities between engine and trainer.

        Raises SuiteError above the tolerance, or if the engine is where the trainer was before the update: it then samples
        from other weights than those that are trained.
        """
        after = self._by_trainer(learner)
        engine_says = torch.tensor([number for row in engine.logprobs(self._sequences) for number in row]).to(after)
        gap, tolerance = float((engine_says - after).abs().mean()), config.sync_tolerance or _tolerance(config)
        if not gap <= tolerance or _stayed_behind(self._before, after, engine_says):
            raise SuiteError(
                "ppo",
                f"weights were not synchronised: after an update {engine.name} and the trainer differ by {gap:.2g} in mean "
                "log-probability",
                f"at most {tolerance:g} in {config.precision}, and no trace of the old weights",
                "set rollout.engine: hf; if the difference is rounding of a larger model, raise sync_tolerance",
            )
        return gap

    @torch.no_grad()
    def _by_trainer(self, learner: Learner) -> Tensor:
        """log p(token t | < t) for t >= 1 of each sequence, one after the other."""
        rows: dict[int, Tensor] = {}
        for pack in learner.packs_for_all([Completion(ids[:1], ids[1:], [], True) for ids in self._sequences]):
            lengths = [len(self._sequences[row]) - 1 for row in pack.rows]
            rows |= dict(zip(pack.rows, learner.policy(pack, 1.0).logprobs.split(lengths), strict=True))
        return torch.cat([rows[row] for row in range(len(self._sequences))])


def _stayed_behind(before: Tensor, after: Tensor, engine: Tensor) -> bool:
    """Whether the engine is nearer to the old log-probabilities than to the new ones, and not by chance. [N] each.

    engine = before + share * (after - before) + rounding, by least squares: the share of the update that has arrived is 1, or 0
    if none has. A small update drowns in the rounding of bf16; then the share's standard error says so.
    """
    moved = (after - before).double()
    size = moved.square().sum()
    if size == 0 or len(moved) < _FEWEST:
        return False
    share = (engine - before).double().dot(moved) / size
    rounding = (engine - before).double() - share * moved
    error = (rounding.square().mean() / size).sqrt()
    return bool(share + _DEVIATIONS * error < 0.5)


def _tolerance(config: PPOConfig) -> float:
    """On a GPU layers of 8 bits round their inputs, too, which no engine's weights can express."""
    exact = config.quantization is None or config.quantization.bits != 8
    return _TOLERANCE[config.engine_precision if exact else "bf16"]
