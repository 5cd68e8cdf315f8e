"""The mathematics of PPO: tensors in, tensors out.

Axes: B sequences, T response tokens, V vocabulary. Index t is response token t: `logprobs[b, t] = log p(token t | before)`,
`values[b, t]` is the value of the prefix before token t. `mask[b, t]` True = counts: a token of the response, its EOS
included. What lies outside the mask never reaches a result.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

_LOG_RATIO_LIMIT = 20.0  # e^20 is far outside any clip range, and finite in every dtype's gradient


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum over the masked entries. Scalar."""
    return torch.where(mask, values, 0.0).sum()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the masked entries. Scalar."""
    return masked_sum(values, mask) / mask.sum()


def whiten(values: Tensor, mask: Tensor, shift_mean: bool = True, eps: float = 1e-8) -> Tensor:
    """Unit variance over the masked entries, and mean 0 unless `shift_mean` is False; 0 outside the mask."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    whitened = (values - mean) * torch.rsqrt(variance + eps)
    return torch.where(mask, whitened if shift_mean else whitened + mean, 0.0)


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """log p(tokens) under softmax(logits / temperature), in fp32. [..., V], [...] -> [...]."""
    scaled = logits.float() / temperature
    return -F.cross_entropy(scaled.flatten(0, -2), tokens.flatten(), reduction="none").view(tokens.shape)


def entropy_of(logits: Tensor, temperature: float) -> Tensor:
    """Entropy of softmax(logits / temperature) in nats. [..., V] -> [...]."""
    logprobs = (logits.float() / temperature).log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def k1(policy_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """log p - log q on samples of p: the unbiased estimate of KL(p, q), and the only one fit for a reward."""
    return policy_logprobs - reference_logprobs


def k2(policy_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """(log p - log q)^2 / 2 (Schulman 2020, "Approximating KL divergence"). Biased, low variance."""
    return (policy_logprobs - reference_logprobs) ** 2 / 2


def k3(policy_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """q/p - 1 - log(q/p) (Schulman 2020). Unbiased, never negative, low variance near the reference."""
    log_ratio = reference_logprobs - policy_logprobs
    return torch.expm1(log_ratio.clamp(max=_LOG_RATIO_LIMIT)) - log_ratio


def adapted_coefficient(coefficient: float, sequence_kl: float, target: float, horizon: int, sequences: int) -> float:
    """The next KL coefficient (Ziegler et al. 2019, section 2.2): the error relative to `target`, clipped to +-0.2, moves it
    over `horizon` sequences. A KL that is no number leaves it as it is."""
    if math.isnan(sequence_kl):
        return coefficient
    error = min(max(sequence_kl / target - 1.0, -0.2), 0.2)
    return coefficient * (1.0 + error * sequences / horizon)


def with_missing_eos(scores: Tensor, finished: Tensor, mode: Literal["replace", "subtract"], value: float) -> Tensor:
    """Scores [B], where answers without EOS get `value` instead, or `value` subtracted."""
    penalised = torch.full_like(scores, value) if mode == "replace" else scores - value
    return torch.where(finished, scores, penalised)


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, coefficient: float) -> Tensor:
    """r_t = -coefficient * kl_t + [t is the last response token] * score. [B], [B, T], [B, T] -> [B, T]."""
    last = mask.sum(1) - 1
    rewards = torch.where(mask, -coefficient * kl, 0.0)
    return rewards.scatter_add(1, last[:, None], scores[:, None].to(rewards.dtype))


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, equations 11 and 16). Returns (advantages, returns), [B, T].

    delta_t = r_t + gamma * V_{t+1} - V_t and A_t = delta_t + gamma * lam * A_{t+1}, where both V and A are 0 after the last
    response token. returns = advantages + values.
    """
    rewards, values = torch.where(mask, rewards, 0.0), torch.where(mask, values, 0.0)
    advantages = torch.zeros_like(values)
    next_advantage = next_value = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        # Past the end rewards and values are 0, so delta and the advantage stay 0 until the last token is reached.
        next_advantage = delta + gamma * lam * next_advantage
        next_value = values[:, t]
        advantages[:, t] = next_advantage
    return advantages, torch.where(mask, advantages + values, 0.0)


def importance_weights(
    trainer_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor, cap: float, level: Literal["token", "sequence"]
) -> Tensor:
    """min(p_trainer / p_sampler, cap) per token, or of the whole sequence and the same at its every token. [B, T]."""
    log_ratio = torch.where(mask, trainer_logprobs - sampler_logprobs, 0.0)
    if level == "sequence":
        log_ratio = log_ratio.sum(1, keepdim=True).expand_as(log_ratio)
    return log_ratio.clamp(max=_LOG_RATIO_LIMIT).exp().clamp(max=cap)


def policy_loss(
    policy_logprobs: Tensor,
    rollout_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip: float,
    dual_clip: float | None = None,
    weights: Tensor | None = None,
    tokens: Tensor | int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped surrogate (Schulman et al. 2017, equation 7), to be minimised, and its metrics.

    policy_logprobs carry the gradient; rollout_logprobs are those of the policy that the batch began with. weights [B, T]:
    importance weights. tokens: what the sum is divided by, when these sequences are only a part of a minibatch.
    """
    tokens = mask.sum() if tokens is None else tokens
    log_ratio = (policy_logprobs - rollout_logprobs).clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT)
    ratio = log_ratio.exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)
    losses = torch.maximum(unclipped, clipped)
    if dual_clip is not None:
        losses = torch.where(advantages < 0, torch.minimum(losses, -advantages * dual_clip), losses)
    if weights is not None:
        losses = losses * weights
    with torch.no_grad():
        metrics = {
            "policy/clip_fraction": masked_sum((clipped > unclipped).float(), mask) / tokens,
            "policy/approx_kl": masked_sum(ratio - 1 - log_ratio, mask) / tokens,  # k3 of the step, on old samples
            "policy/ratio": masked_sum(ratio, mask) / tokens,
        }
    loss = masked_sum(losses, mask) / tokens
    return loss, metrics | {"policy/loss": loss.detach()}


def value_loss(
    values: Tensor,
    rollout_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    *,
    clip: float | None,
    tokens: Tensor | int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Half the squared error to the returns; with `clip`, the worse of it and the error of a value kept near the rollout's.

    values carry the gradient. tokens: as in `policy_loss`.
    """
    tokens = mask.sum() if tokens is None else tokens
    errors = (values - returns) ** 2
    clip_fraction = torch.zeros(())
    if clip is not None:
        near = rollout_values + (values - rollout_values).clamp(-clip, clip)
        clipped = (near - returns) ** 2
        clip_fraction = masked_sum((clipped > errors).float(), mask) / tokens
        errors = torch.maximum(errors, clipped)
    loss = 0.5 * masked_sum(errors, mask) / tokens
    return loss, {"critic/loss": loss.detach(), "critic/clip_fraction": clip_fraction}


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns), over the masked tokens: 1 = perfect, 0 = no better than a constant."""
    residual, target = (returns - values)[mask], returns[mask]
    return 1 - residual.var(unbiased=False) / target.var(unbiased=False).clamp(min=1e-8)
