"""PPO once more, in plain Python and double precision: what the suite's own is compared with. Written from the papers.

The model is small enough for gradients by hand. The state of a prefix is a row of a table, chosen by the prefix's last token;
logits are head[k] . state, the value is weight . state + bias. Weights are matrices, lists of rows, by name.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

Matrix = list[list[float]]
Weights = dict[str, Matrix]


def log_softmax(logits: list[float]) -> list[float]:
    top = max(logits)
    total = top + math.log(sum(math.exp(logit - top) for logit in logits))
    return [logit - total for logit in logits]


def entropy(logprobs: list[float]) -> float:
    return -sum(math.exp(logprob) * logprob for logprob in logprobs)


def whiten(rows: Matrix, shift_mean: bool = True, eps: float = 1e-8) -> Matrix:
    """Over all numbers of ragged rows."""
    numbers = [number for row in rows for number in row]
    mean = sum(numbers) / len(numbers)
    deviation = math.sqrt(sum((number - mean) ** 2 for number in numbers) / len(numbers) + eps)
    return [[(number - mean) / deviation + (0.0 if shift_mean else mean) for number in row] for row in rows]


def advantages_of(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """Schulman et al. 2016, equation 16: sums of discounted errors, each written out."""
    following = [*values[1:], 0.0]
    errors = [r + gamma * after - v for r, v, after in zip(rewards, values, following, strict=True)]
    return [sum((gamma * lam) ** (i - t) * errors[i] for i in range(t, len(errors))) for t in range(len(errors))]


def policy_loss(log_ratio: float, advantage: float, clip: float, dual: float | None) -> tuple[float, float]:
    """Loss of one token and its derivative by the token's log-probability."""
    ratio = math.exp(log_ratio)
    gain, bounded = ratio * advantage, min(max(ratio, 1 - clip), 1 + clip) * advantage
    loss, slope = (-gain, -gain) if gain <= bounded else (-bounded, 0.0)
    if dual is not None and advantage < 0 and loss > -dual * advantage:
        loss, slope = -dual * advantage, 0.0
    return loss, slope


def value_loss(value: float, old: float, target: float, clip: float | None) -> tuple[float, float]:
    """Loss of one token and its derivative by the value."""
    loss, slope = (value - target) ** 2 / 2, value - target
    if clip is not None and abs(value - old) > clip:
        near = old + math.copysign(clip, value - old)
        if (near - target) ** 2 / 2 > loss:
            loss, slope = (near - target) ** 2 / 2, 0.0
    return loss, slope


@dataclass
class Answer:
    prompt: list[int]
    response: list[int]
    sampled: list[float]
    finished: bool
    score: float


@dataclass
class Judged:
    """One answer, by token. `before`: the tokens that the response's tokens follow."""

    answer: Answer
    before: list[int]
    old: list[float]
    values: list[float]
    rewards: list[float]
    importance: list[float]
    advantages: list[float] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)


@dataclass
class Adam:
    """Kingma & Ba 2015, algorithm 1, on gradients scaled to a largest norm."""

    weights: Weights
    max_norm: float
    steps: int = 0

    def __post_init__(self) -> None:
        self.first, self.second = zeros(self.weights), zeros(self.weights)

    def step(self, gradients: Weights, rate: float) -> float:
        norm = math.sqrt(sum(g**2 for matrix in gradients.values() for row in matrix for g in row))
        scale = min(1.0, self.max_norm / (norm + 1e-6))
        self.steps += 1
        for name, matrix in self.weights.items():
            for i, row in enumerate(matrix):
                for j in range(len(row)):
                    gradient = gradients[name][i][j] * scale
                    m = self.first[name][i][j] = 0.9 * self.first[name][i][j] + 0.1 * gradient
                    v = self.second[name][i][j] = 0.999 * self.second[name][i][j] + 0.001 * gradient**2
                    m, v = m / (1 - 0.9**self.steps), v / (1 - 0.999**self.steps)
                    row[j] -= rate * m / (math.sqrt(v) + 1e-5)
        return norm


@dataclass
class Settings:
    temperature: float
    beta: float
    gamma: float
    lam: float
    clip: float
    dual: float | None
    value_clip: float | None
    cap: float
    missing_eos: float
    entropy_bonus: float
    whiten_rewards: bool
    whiten_advantages: bool
    trunk_coefficient: float | None  # None: the critic has a table of its own
    stop_gradient: bool


@dataclass
class Player:
    """policy: {table, head}. critic: {table, weight, bias}, or {weight, bias} on the policy's table."""

    policy: Weights
    reference: Weights
    critic: Weights
    settings: Settings
    max_norm: float

    def __post_init__(self) -> None:
        self.policy_adam, self.critic_adam = Adam(self.policy, self.max_norm), Adam(self.critic, self.max_norm)

    def logprobs(self, weights: Weights, before: int) -> list[float]:
        state = weights["table"][before]
        return log_softmax([dot(row, state) / self.settings.temperature for row in weights["head"]])

    def value(self, before: int) -> float:
        return dot(self.critic["weight"][0], self._critic_table()[before]) + self.critic["bias"][0][0]

    def _critic_table(self) -> Matrix:
        return self.critic.get("table", self.policy["table"])

    def judge(self, answers: list[Answer]) -> list[Judged]:
        s = self.settings
        batch = [self._judged(answer) for answer in answers]
        rewards = [one.rewards for one in batch]
        if s.whiten_rewards:
            rewards = whiten(rewards, shift_mean=False)
        for one, row in zip(batch, rewards, strict=True):
            one.rewards = row
            one.advantages = advantages_of(row, one.values, s.gamma, s.lam)
            one.returns = [a + v for a, v in zip(one.advantages, one.values, strict=True)]
        if s.whiten_advantages:
            for one, row in zip(batch, whiten([one.advantages for one in batch]), strict=True):
                one.advantages = row
        return batch

    def _judged(self, answer: Answer) -> Judged:
        s = self.settings
        before = [answer.prompt[-1], *answer.response[:-1]]
        pairs = list(zip(before, answer.response, strict=True))
        old = [self.logprobs(self.policy, x)[y] for x, y in pairs]
        rewards = [
            -s.beta * (mine - self.logprobs(self.reference, x)[y]) for mine, (x, y) in zip(old, pairs, strict=True)
        ]
        rewards[-1] += answer.score if answer.finished else s.missing_eos
        importance = [min(math.exp(a - b), s.cap) for a, b in zip(old, answer.sampled, strict=True)]
        return Judged(answer, before, old, [self.value(x) for x in before], rewards, importance)

    def update(self, minibatch: list[Judged], rates: tuple[float, float]) -> dict[str, float]:
        """One step of both optimisers. Returns the losses and the share of policy tokens that were clipped."""
        s, tokens = self.settings, sum(len(one.before) for one in minibatch)
        policy, critic = zeros(self.policy), zeros(self.critic)
        totals = dict.fromkeys(("policy/loss", "critic/loss", "clipped"), 0.0)
        for one in minibatch:
            for t, (x, y) in enumerate(zip(one.before, one.answer.response, strict=True)):
                logprobs = self.logprobs(self.policy, x)
                loss, slope = policy_loss(logprobs[y] - one.old[t], one.advantages[t], s.clip, s.dual)
                totals["policy/loss"] += one.importance[t] * loss / tokens
                totals["clipped"] += (slope == 0.0) / tokens
                self._policy_gradient(policy, x, y, logprobs, one.importance[t] * slope / tokens, tokens)
                loss, slope = value_loss(self.value(x), one.values[t], one.returns[t], s.value_clip)
                totals["critic/loss"] += loss / tokens
                self._value_gradient(policy, critic, x, slope / tokens)
        norms = {
            "critic/gradient_norm": self.critic_adam.step(critic, rates[1]),
            "policy/gradient_norm": self.policy_adam.step(policy, rates[0]),
        }
        return totals | norms

    def _policy_gradient(
        self, gradients: Weights, x: int, y: int, logprobs: list[float], slope: float, tokens: int
    ) -> None:
        """Of slope * log p(y) - bonus * entropy / tokens: d log p(y) / d logit k is [k = y] - p_k, d entropy is -p_k (log p_k + H)."""
        s, state, spread = self.settings, self.policy["table"][x], entropy(logprobs)
        for k, (logprob, row) in enumerate(zip(logprobs, self.policy["head"], strict=True)):
            p = math.exp(logprob)
            by_logit = slope * ((k == y) - p) + s.entropy_bonus / tokens * p * (logprob + spread)
            for h, (weight, number) in enumerate(zip(row, state, strict=True)):
                gradients["head"][k][h] += by_logit / s.temperature * number
                gradients["table"][x][h] += by_logit / s.temperature * weight

    def _value_gradient(self, policy: Weights, critic: Weights, x: int, slope: float) -> None:
        s = self.settings
        slope *= 1.0 if s.trunk_coefficient is None else s.trunk_coefficient
        critic["bias"][0][0] += slope
        table = critic["table"] if s.trunk_coefficient is None else policy["table"]
        for h, (weight, number) in enumerate(zip(self.critic["weight"][0], self._critic_table()[x], strict=True)):
            critic["weight"][0][h] += slope * number
            if not s.stop_gradient:
                table[x][h] += slope * weight


def dot(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def zeros(weights: Weights) -> Weights:
    return {name: [[0.0] * len(row) for row in matrix] for name, matrix in copy.deepcopy(weights).items()}
