"""Worlds in which the truth is known: models with seeds of their own answer items, right (1) or wrong (0).

A model is right where its liability exceeds 0: `BASE + ease of the item + change + uneven change of the item + effect of
the training seed + noise of the seed at this item`, all normal, the noise with deviation 1. So the expected score is a
normal probability, and the true difference between two arms needs no simulation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

BASE = 1.0  # 71 % right
EASE = 1.5
SHARED = 0.5  # part of a seed's variance that all tasks share; the rest is each task's own
IN_CLUSTER = 0.8  # part of the items' variance, of ease and of change, that a cluster's items share


@dataclass(frozen=True)
class World:
    """One experiment's design and its truth.

    items: of each task. seeds: trained models. seed_sd: deviation of a seed's liability. both: is the reference trained
    per seed as well, or one fixed checkpoint? clusters: sources of the items, None = each item its own. change: what
    training does to the liability. uneven: its deviation over items (0 and no change: an A/A comparison).
    """

    items: int
    seeds: int = 1
    seed_sd: float = 0.0
    both: bool = False
    tasks: int = 1
    clusters: int | None = None
    change: float = 0.0
    uneven: float = 0.0


class Answers(NamedTuple):
    """Scores of one task, `[S, n]` each, and the items' clusters."""

    reference: np.ndarray
    new: np.ndarray
    clusters: np.ndarray | None

    @property
    def differences(self) -> np.ndarray:
        return self.new - self.reference


def draw(world: World, rng: np.random.Generator) -> list[Answers]:
    """One experiment: new items, new training seeds; the answers to each task."""
    effects = [_seed_effects(world, rng) for _ in range(2)]  # of the reference's seeds and of the new model's
    return [_draw_task(world, rng, effects[0][:, [task]], effects[1][:, [task]]) for task in range(world.tasks)]


def truth(world: World) -> float:
    """The expected difference over all items and all seeds, the same for every task."""
    return _accuracy(world, new=True) - _accuracy(world, new=False)


def with_drop(world: World, drop: float) -> World:
    """That world with the change that lowers the expected score by `drop`. Raises ValueError where there is no room."""
    wanted = _accuracy(world, new=False) - drop
    if not 0 < wanted < 1:
        raise ValueError(f"a drop of {drop:.3f} from {wanted + drop:.3f} leaves no score between 0 and 1")
    return replace(world, change=float(ndtri(wanted)) * math.sqrt(_variance(world, new=True)) - BASE)


def seed_points(world: World) -> float:
    """Deviation of the expected score between training seeds of the new arm, to first order."""
    spread = math.sqrt(_variance(world, new=True))
    level = (BASE + world.change) / spread
    return world.seed_sd / spread * math.exp(-(level**2) / 2) / math.sqrt(2 * math.pi)


def _variance(world: World, new: bool) -> float:
    trained = world.both or new
    return 1 + EASE**2 + (world.uneven**2 if new else 0.0) + (world.seed_sd**2 if trained else 0.0)


def _accuracy(world: World, new: bool) -> float:
    return float(ndtr((BASE + (world.change if new else 0.0)) / math.sqrt(_variance(world, new))))


def _seed_effects(world: World, rng: np.random.Generator) -> np.ndarray:
    """`[S, T]`"""
    shared, own = rng.standard_normal((world.seeds, 1)), rng.standard_normal((world.seeds, world.tasks))
    return world.seed_sd * (math.sqrt(SHARED) * shared + math.sqrt(1 - SHARED) * own)


def _draw_task(world: World, rng: np.random.Generator, old_seeds: np.ndarray, new_seeds: np.ndarray) -> Answers:
    clusters = _draw_clusters(world, rng)
    ease = BASE + EASE * _item_effects(world, rng, clusters)
    change = world.change
    if world.uneven:
        change = change + world.uneven * _item_effects(world, rng, clusters)
    shape = (world.seeds, world.items)
    new = _right(ease + change + new_seeds + rng.standard_normal(shape))
    if world.both:
        return Answers(_right(ease + old_seeds + rng.standard_normal(shape)), new, clusters)
    fixed = _right(ease + rng.standard_normal(world.items))
    return Answers(np.broadcast_to(fixed, shape), new, clusters)


def _right(liability: np.ndarray) -> np.ndarray:
    return (liability > 0).astype(float)


def _draw_clusters(world: World, rng: np.random.Generator) -> np.ndarray | None:
    """Labels of the items; clusters differ in size, and none is empty."""
    if world.clusters is None:
        return None
    sizes = 1 + rng.multinomial(world.items - world.clusters, np.full(world.clusters, 1 / world.clusters))
    return np.repeat(np.arange(world.clusters), sizes)


def _item_effects(world: World, rng: np.random.Generator, clusters: np.ndarray | None) -> np.ndarray:
    """`[n]`, variance 1."""
    own = rng.standard_normal(world.items)
    if clusters is None:
        return own
    assert world.clusters is not None
    return math.sqrt(IN_CLUSTER) * rng.standard_normal(world.clusters)[clusters] + math.sqrt(1 - IN_CLUSTER) * own
