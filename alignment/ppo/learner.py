"""What PPO trains and what it is held against, in one of three arrangements, on one process or several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from alignment.generation.engine import Completion
from alignment.models.merged import merged_weights
from alignment.parallel import ALONE, World
from alignment.ppo.networks import Critic, Policy, plain
from alignment.ppo.optimizer import Optimizer
from alignment.ppo.packing import Pack, length_of, packs
from alignment.ppo.scores import ScoreStatistics
from alignment.ppo.sharding import shard_like, whole


@dataclass
class Learner:
    """policy and critic are trained; the reference is the policy as it began. Dropout is off in all of them: a ratio of two
    forward passes must differ from 1 by the weights alone.

    critic: None = the policy's value head. kl_coefficient: beta, which moves if it is adaptive. score_statistics: of all scores
    so far. skipped: steps of the run, in a row, without any update. packed: False for models that only run on padded batches.
    even: every process makes as many passes as every other, as sharded weights demand. at_once: the models share nothing, and may
    be at work side by side.
    """

    policy: Policy
    reference: Policy
    critic: Critic | None
    policy_optimizer: Optimizer
    critic_optimizer: Optimizer
    kl_coefficient: float
    device: str
    packed: bool
    tokens_per_pass: int
    world: World = ALONE
    even: bool = False
    at_once: bool = False
    reference_moves: bool = False
    score_statistics: ScoreStatistics = field(default_factory=ScoreStatistics)
    skipped: int = 0

    def packs(self, completions: Sequence[Completion], rows: Sequence[int], width: int) -> Iterator[Pack]:
        """This process's share of those rows, ready for any of the models. width: T of the batch's grids.

        Shares hold about as many tokens each. With `even` a process may meet its last pack again, marked as a repeat.
        """
        made = [self._packs(completions, share, width) for share in _shares(completions, rows, self.world.size)]
        own = made[self.world.rank]
        yield from own
        if self.even:
            for _ in range(max(map(len, made)) - len(own)):
                yield own[-1].repeated()

    def packs_for_all(self, completions: Sequence[Completion]) -> list[Pack]:
        """All of these answers, on every process."""
        return self._packs(completions, range(len(completions)), max(len(c.response_ids) for c in completions))

    def _packs(self, completions: Sequence[Completion], rows: Sequence[int], width: int) -> list[Pack]:
        return list(
            packs(completions, rows, width=width, tokens=self.tokens_per_pass, packed=self.packed, device=self.device)
        )

    def engine_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The policy's weights under their Hugging Face names, adapters merged in, whole."""
        if self.policy.adapter is not None:
            return merged_weights(self.policy.lm, self.policy.adapter)
        return ((name, whole(weight.detach())) for name, weight in self.policy.lm.named_parameters())

    def reset_reference(self) -> None:
        """From now on the KL is measured from the present policy."""
        _copy(_weights(self.policy), _weights(self.reference))

    def state(self) -> dict[str, Any]:
        """All that the rest of a run depends on. All processes must call it."""
        return {
            "policy": self.policy_optimizer.state(),
            "critic": self.critic_optimizer.state(),
            "reference": [whole(w.detach()) for w in _weights(self.reference)] if self.reference_moves else [],
            "kl_coefficient": self.kl_coefficient,
            "score_statistics": self.score_statistics.state(),
            "skipped": self.skipped,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.policy_optimizer.restore(state["policy"])
        self.critic_optimizer.restore(state["critic"])
        if self.reference_moves:
            _copy(state["reference"], _weights(self.reference))
        self.kl_coefficient = state["kl_coefficient"]
        self.score_statistics.restore(state["score_statistics"])
        self.skipped = state["skipped"]


def _weights(policy: Policy) -> list[Tensor]:
    """Those in which policy and reference differ."""
    if policy.adapter is None:
        return list(plain(policy.lm).parameters())
    return [weight for name, weight in policy.lm.named_parameters() if f".{policy.adapter}." in name]


@torch.no_grad()
def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(shard_like(source, target))


def _shares(completions: Sequence[Completion], rows: Sequence[int], count: int) -> list[list[int]]:
    """Rows dealt out, the longest first, each to the share with the fewest tokens. The same on every process."""
    if count == 1:
        return [list(rows)]
    shares: list[list[int]] = [[] for _ in range(count)]
    tokens = [0] * count
    for row in sorted(rows, key=lambda row: -length_of(completions[row])):
        lightest = tokens.index(min(tokens))
        shares[lightest].append(row)
        tokens[lightest] += length_of(completions[row])
    return shares
