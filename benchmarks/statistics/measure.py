"""From a cell to its figures. Each experiment is drawn anew; the same cell always draws the same ones."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.statistics.cells import MARGIN, Cell, Kind
from benchmarks.statistics.methods import OWN, Method, estimate_of, p_of
from benchmarks.statistics.peer import DEFAULT, PEER, SCORE
from benchmarks.statistics.simulate import Answers, World, draw, truth, with_drop
from eval.bootstrap import resampled_means, seed_draws
from eval.statistics import Parts, adjust
from eval.verdict import SIGNIFICANT, detectable_at, detectable_difference, retained_verdict

SEED = 20_260
PROMISES = 3  # rounds until a drop and the promise at that drop agree
PLANTED = 0.15  # the drop of the tasks that lost something, where false discoveries are counted

Figures = dict[str, float]


def measure(cell: Cell, with_peer: bool) -> dict[str, Figures]:
    """Figures by method. coverage: share of intervals that hold the truth, and the mean half-width. Else `ours`: a rate."""
    if cell.kind == "coverage":
        return _coverage(cell, with_peer)
    rates: Mapping[Kind, Callable[[Cell], Figures]] = {
        "error": _error,
        "retained": _retained,
        "power": _power,
        "family": _family,
        "discovery": _discovery,
    }
    return {"ours": rates[cell.kind](cell)}


def bootstrap_seconds(replicates: int = 10_000, seeds: int = 5, items: int = 2_000, tasks: int = 12) -> float:
    """Wall time of the two-way bootstrap of as many tasks, in this process, on one thread."""
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 2, (tasks, seeds, 1, items)).astype(float)
    started = time.perf_counter()
    weights = seed_draws(seeds, replicates, rng)
    for task in scores:
        resampled_means(task, weights, rng)
    return time.perf_counter() - started


def _generator(cell: Cell, purpose: str) -> np.random.Generator:
    return np.random.default_rng([SEED, zlib.crc32(f"{cell.name} {purpose}".encode())])


def _experiments(cell: Cell, world: World, purpose: str = "data") -> Iterator[list[Answers]]:
    rng = _generator(cell, purpose)
    return (draw(world, rng) for _ in range(cell.simulations))


def _coverage(cell: Cell, with_peer: bool) -> dict[str, Figures]:
    methods: dict[str, Method] = dict(OWN)
    if cell.world.seeds == 1:
        del methods["seeds only"]
    if with_peer and cell.world.tasks == 1:
        methods |= PEER
    intervals: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    rng, right = _generator(cell, "methods"), truth(cell.world)
    for number, tasks in enumerate(_experiments(cell, cell.world)):
        for name, method in methods.items():
            if number < _simulations(cell, name):
                intervals[name].append(method(tasks, rng))
    found = {}
    for name, pairs in intervals.items():
        if not pairs:
            continue
        low, high = np.array(pairs).T
        covered = float(np.mean((low <= right) & (right <= high)))
        found[name] = {"rate": covered, "half_width": float((high - low).mean() / 2), "simulations": len(pairs)}
    return found


def _simulations(cell: Cell, method: str) -> int:
    """How many experiments a method sees: the slow ones fewer, and evalstats' bootstrap (up to seconds an interval) only
    small experiments."""
    if method == DEFAULT:
        return cell.few // 3 if cell.world.items <= 400 else 0
    return cell.few if method in ("two-way bootstrap", SCORE) else cell.simulations


def _rate(hits: list[bool]) -> Figures:
    return {"rate": float(np.mean(hits)), "simulations": len(hits)}


def _error(cell: Cell) -> Figures:
    """How often two equal models are called different."""
    return _rate([p_of(task) < SIGNIFICANT for [task] in _experiments(cell, cell.world)])


def _retained(cell: Cell) -> Figures:
    """How often a loss as large as the margin is called retained."""
    hits = []
    for [task] in _experiments(cell, with_drop(cell.world, MARGIN)):
        hits.append(retained_verdict(estimate_of([task]), p_of(task), MARGIN).word == "retained")
    return _rate(hits)


def _power(cell: Cell) -> Figures:
    """How often a drop is found that is as large as what its own design is promised to detect.

    The promise is computed from the mean squares that such experiments have on average, at that very drop, because 0/1
    scores vary more the more of them change. `seen`: what one such experiment reports of it, on average.
    """
    promised, seen = 0.0, 0.0
    for _ in range(PROMISES):
        world = with_drop(cell.world, promised)
        pilots = [estimate_of(tasks) for tasks in _experiments(replace(cell, simulations=cell.few), world, "pilots")]
        design = _average([pilot.parts for pilot in pilots])
        promised = detectable_at(design)
        seen = float(np.mean([detectable_difference(pilot) for pilot in pilots]))
    hits = []
    for [task] in _experiments(cell, with_drop(cell.world, promised)):
        hits.append(p_of(task) < SIGNIFICANT and task.differences.mean() < 0)
    return _rate(hits) | {"drop": promised, "seen": seen}


def _average(parts: Sequence[Parts]) -> Parts:
    """Of several experiments on one task."""
    tasks = [experiment.tasks[0] for experiment in parts]
    seeds, items, error = np.mean([(task.seeds, task.items, task.error) for task in tasks], axis=0)
    return Parts(seeds, (replace(tasks[0], seeds=seeds, items=items, error=error),))


def _family(cell: Cell) -> Figures:
    """How often at least one of several equal tasks is called different after Holm's correction."""
    return _rate(
        [min(adjust([p_of(task) for task in tasks], "holm")) < SIGNIFICANT for tasks in _experiments(cell, cell.world)]
    )


def _discovery(cell: Cell) -> Figures:
    """Mean share of unchanged tasks among those that Benjamini-Hochberg calls different; as many tasks lost something."""
    shares = []
    lost = _experiments(cell, with_drop(cell.world, PLANTED), "lost")
    for unchanged, changed in zip(_experiments(cell, cell.world), lost, strict=True):
        found = np.array(adjust([p_of(task) for task in (*unchanged, *changed)], "fdr_bh")) < SIGNIFICANT
        shares.append(found[: len(unchanged)].sum() / max(1, found.sum()))
    return {"rate": float(np.mean(shares)), "simulations": len(shares)}
