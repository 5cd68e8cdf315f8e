"""What is simulated, and what each figure should be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.statistics.simulate import World

Kind = Literal["coverage", "error", "retained", "power", "family", "discovery"]

SEED_SD = {"none": 0.0, "small": 0.05, "large": 0.25}  # about 0, 1 and 5 points of accuracy
SEEDS = (3, 5, 10)
MARGIN = 0.05
DROP, UNEVEN = -0.2, 0.4  # what training did: 4 points less, not the same for every item


@dataclass(frozen=True)
class Cell:
    """One figure, or one interval against its competitors. goal: least and largest value, both allowed.

    seed_effect: name of the seeds' deviation, for the table. simulations: experiments drawn; slow competitors see the
    first `few` of them.
    """

    kind: Kind
    group: str
    world: World
    goal: tuple[float, float]
    seed_effect: str = "–"
    simulations: int = 4000
    few: int = 300

    @property
    def name(self) -> str:
        """Unique, and the key of the figure in the last line of output."""
        world = self.world
        parts = [self.group, f"{world.seeds}-seeds" if world.seeds > 1 else "1-checkpoint", f"{world.items}-items"]
        parts += [f"{world.clusters}-clusters"] if world.clusters else []
        parts += [f"{world.tasks}-tasks"] if world.tasks > 1 else []
        parts += (
            [f"seed-effect-{self.seed_effect}", "both-arms" if world.both else "one-arm"] if world.seeds > 1 else []
        )
        return "/".join(parts)


def all_cells() -> list[Cell]:
    return [
        *_items(), *_clusters(), *_crossed(), *_groups(), *_same_models(), *_at_the_margin(), *_planted(), *_families(),
        *_discoveries(),
    ]  # fmt: skip


def _items() -> list[Cell]:
    worlds = [World(n, change=DROP, uneven=UNEVEN) for n in (100, 300, 1000)]
    return [Cell("coverage", "items", world, (0.93, 0.97)) for world in worlds]


def _clusters() -> list[Cell]:
    sizes = ((300, 30), (400, 80), (1000, 200))
    worlds = [World(n, clusters=clusters, change=DROP, uneven=2 * UNEVEN) for n, clusters in sizes]
    return [Cell("coverage", "clusters", world, (0.93, 0.97)) for world in worlds]


def _crossed() -> list[Cell]:
    return [
        Cell("coverage", "crossed", World(n, seeds, sd, both, change=DROP, uneven=UNEVEN), (0.92, 0.99), effect)
        for both in (False, True)
        for effect, sd in SEED_SD.items()
        for seeds in SEEDS
        for n in (200, 1000)
    ]


def _groups() -> list[Cell]:
    one = World(150, tasks=8, change=DROP, uneven=UNEVEN)
    return [Cell("coverage", "group", one, (0.91, 1.0))] + [
        Cell("coverage", "group", World(150, seeds, sd, both, 8, change=DROP, uneven=UNEVEN), (0.91, 1.0), effect)
        for both in (False, True)
        for effect, sd in SEED_SD.items()
        for seeds in SEEDS
    ]


def _same_models() -> list[Cell]:
    """A/A: two checkpoints, or two arms, made in the same way."""
    goal, many = (0.0, 0.06), 10_000
    single = [Cell("error", "same-models", World(n), goal, simulations=many) for n in (100, 300, 1000)]
    return single + [
        Cell("error", "same-models", World(300, seeds, sd, both=True), goal, effect, many)
        for effect, sd in SEED_SD.items()
        for seeds in SEEDS
    ]


def _at_the_margin() -> list[Cell]:
    """The true loss is the margin: "retained" would be wrong."""
    goal = (0.0, 0.06)
    return [Cell("retained", "loss-of-the-margin", World(1000, uneven=UNEVEN), goal)] + [
        Cell("retained", "loss-of-the-margin", World(1000, seeds, sd, uneven=UNEVEN), goal, effect)
        for effect, sd in SEED_SD.items()
        for seeds in SEEDS
    ]


def _planted() -> list[Cell]:
    goal = (0.75, 0.9)
    single = [Cell("power", "planted-drop", World(n, uneven=UNEVEN), goal) for n in (300, 1000)]
    return single + [
        Cell("power", "planted-drop", World(500, seeds, sd, uneven=UNEVEN), goal, effect)
        for effect, sd in SEED_SD.items()
        for seeds in SEEDS
    ]


def _families() -> list[Cell]:
    goal = (0.0, 0.05)
    return [Cell("family", "holm", World(200, tasks=8), goal)] + [
        Cell("family", "holm", World(200, seeds, sd, both=True, tasks=8), goal, effect)
        for effect, sd in SEED_SD.items()
        for seeds in SEEDS
    ]


def _discoveries() -> list[Cell]:
    """Benjamini-Hochberg over eight tasks, four of which lost something."""
    worlds = [World(200, tasks=4), World(200, 5, SEED_SD["small"], both=True, tasks=4)]
    return [
        Cell("discovery", "benjamini-hochberg", world, (0.0, 0.05), "–" if world.seeds == 1 else "small")
        for world in worlds
    ]
