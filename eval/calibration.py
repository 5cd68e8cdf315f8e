"""How well a model knows when it is right: calibration of multiple choice, from the choices' log-likelihoods alone.

The choices' probabilities are the softmax of their log-likelihoods: what the model believes if the answer must be one of them. A
choice's length counts: longer texts are less likely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BINS = 10  # of equal width over confidences from 0 to 1


@dataclass(frozen=True)
class Judged:
    """Of n items: confidence = probability of the likeliest choice, hit = it is the right one (0/1), brier = sum over choices of
    (probability - right)^2, nll = -log probability of the right choice, in nats. All `[n]`."""

    confidence: np.ndarray
    hit: np.ndarray
    brier: np.ndarray
    nll: np.ndarray


@dataclass(frozen=True)
class Bin:
    """Items whose confidence lies in [low, high); the last bin holds 1, too. confidence, accuracy: means over them."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


def judge(choice_lls: Sequence[Sequence[float]], gold: Sequence[int]) -> Judged:
    """choice_lls: `[n][K]` in nats, K may differ from item to item. gold: the right choices' places."""
    items, right = np.arange(len(choice_lls)), np.asarray(gold)
    scores = np.full((len(choice_lls), max(map(len, choice_lls))), -np.inf)  # choices that an item lacks: probability 0
    for row, lls in zip(scores, choice_lls, strict=True):
        row[: len(lls)] = lls
    scores -= scores.max(1, keepdims=True)
    logprobs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    p = np.exp(logprobs)
    target = np.zeros_like(p)
    target[items, right] = 1
    hit = (p.argmax(1) == right).astype(float)
    return Judged(p.max(1), hit, ((p - target) ** 2).sum(1), -logprobs[items, right])


def bin_of(confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    """`[n]` numbers of the bins."""
    return np.minimum((np.asarray(confidence) * bins).astype(int), bins - 1)


def gaps(judged: Judged, bins: int = BINS) -> np.ndarray:
    """`[bins, n]`: hit - confidence in the item's own bin, 0 elsewhere. ECE = sum over bins of |mean over items|."""
    return np.where(np.arange(bins)[:, None] == bin_of(judged.confidence, bins), judged.hit - judged.confidence, 0.0)


def ece(judged: Judged, bins: int = BINS) -> float:
    """Expected calibration error: sum over bins of their share of items times |accuracy - mean confidence| (Guo et al. 2017).

    Biased upwards: with few items a bin's accuracy is off by chance, and that counts as error.
    """
    return float(np.abs(gaps(judged, bins).mean(1)).sum())


def reliability(judged: Judged, bins: int = BINS) -> list[Bin]:
    """The bins that hold items."""
    number = bin_of(judged.confidence, bins)
    found = []
    for index in range(bins):
        inside = number == index
        if inside.any():
            means = float(judged.confidence[inside].mean()), float(judged.hit[inside].mean())
            found.append(Bin(index / bins, (index + 1) / bins, int(inside.sum()), *means))
    return found
