"""The parts of the simulations: the truth they count against, the effects they plant, and their own arithmetic."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from benchmarks import publish
from benchmarks.statistics import render
from benchmarks.statistics.cells import MARGIN, SEED_SD, Cell, all_cells
from benchmarks.statistics.measure import measure
from benchmarks.statistics.methods import OWN, estimate_of, p_of
from benchmarks.statistics.simulate import IN_CLUSTER, Answers, World, draw, seed_points, truth, with_drop

WORLD = World(400, seeds=4, seed_sd=0.25, change=-0.3, uneven=0.5)


def means(world: World, experiments: int, seed: int = 0) -> np.ndarray:
    """Mean difference of every experiment, over all tasks."""
    rng = np.random.default_rng(seed)
    return np.array([np.mean([task.differences.mean() for task in draw(world, rng)]) for _ in range(experiments)])


@pytest.mark.parametrize(
    "world",
    [WORLD, replace(WORLD, both=True), replace(WORLD, clusters=50), replace(WORLD, tasks=3), World(400, change=0.4)],
)
def test_truth_is_what_experiments_average_to(world):
    found = means(world, 600)
    assert found.mean() == pytest.approx(truth(world), abs=4 * found.std() / np.sqrt(len(found)))
    assert abs(truth(world)) > 0.03


def test_equal_models_do_not_differ():
    assert truth(World(10)) == 0.0 and truth(World(10, seeds=3, seed_sd=0.4, both=True)) == 0.0
    reference, new, _ = draw(World(4000), np.random.default_rng(0))[0]
    assert reference.mean() == pytest.approx(stats.norm.cdf(1 / np.sqrt(1 + 1.5**2)), abs=0.03)
    assert 0.1 < (reference != new).mean() < 0.4  # the same skill, not the same answers


@pytest.mark.parametrize("drop", [0.02, 0.1])
def test_a_planted_drop_is_as_large_as_asked(drop):
    assert truth(with_drop(WORLD, drop)) == pytest.approx(-drop)
    with pytest.raises(ValueError, match="leaves no score"):
        with_drop(WORLD, 0.9)


def test_seed_effects_are_as_large_as_said():
    points = [seed_points(World(10, seeds=3, seed_sd=sd)) for sd in SEED_SD.values()]
    assert points == pytest.approx([0.0, 0.01, 0.05], abs=0.004)
    world = World(4000, seeds=1, seed_sd=SEED_SD["large"])
    rng = np.random.default_rng(1)
    found = np.std([draw(world, rng)[0].new.mean() for _ in range(500)])
    items = np.sqrt(0.71 * 0.29 / 4000)
    assert np.sqrt(found**2 - items**2) == pytest.approx(seed_points(world), rel=0.12)


def test_a_fixed_reference_is_one_and_trained_references_differ():
    fixed, trained = (draw(replace(WORLD, both=both), np.random.default_rng(0))[0].reference for both in (False, True))
    assert (fixed == fixed[0]).all() and not (trained == trained[0]).all()
    assert fixed.shape == trained.shape == (4, 400)


def test_items_of_a_cluster_change_together():
    task = draw(World(6000, clusters=1500, uneven=3.0), np.random.default_rng(0))[0]
    assert task.clusters is not None and set(task.clusters) == set(range(1500))
    changes, labels = task.differences[0], task.clusters
    same = labels[1:] == labels[:-1]
    inside = np.corrcoef(changes[1:][same], changes[:-1][same])[0, 1]
    across = np.corrcoef(changes[1:][~same], changes[:-1][~same])[0, 1]
    assert inside > 0.25 * IN_CLUSTER and abs(across) < 0.08


def test_the_same_cell_always_draws_the_same_experiments():
    cell = Cell("error", "same-models", World(50), (0.0, 0.06), simulations=40)
    assert measure(cell, with_peer=False) == measure(cell, with_peer=False)


def test_coverage_counts_intervals_that_hold_the_truth(monkeypatch):
    cell = Cell("coverage", "items", World(60, change=-0.2), (0.9, 1.0), simulations=8, few=4)
    right = truth(cell.world)
    methods = {"ours": lambda tasks, rng: (right, right + 0.2), "two-way bootstrap": lambda tasks, rng: (0.5, 0.6)}
    monkeypatch.setattr("benchmarks.statistics.measure.OWN", methods | {"seeds only": None})
    found = measure(cell, with_peer=False)
    assert found["ours"] == {"rate": 1.0, "half_width": pytest.approx(0.1), "simulations": 8}
    assert found["two-way bootstrap"]["rate"] == 0.0 and found["two-way bootstrap"]["simulations"] == 4


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [("retained", 0.0, 0.12), ("power", 0.6, 0.97), ("family", 0.0, 0.15), ("discovery", 0.0, 0.15)],
)
def test_rates_are_of_the_order_that_they_should_be(kind, low, high):
    world = World(300, tasks=1 if kind in ("retained", "power") else 3)
    found = measure(
        Cell(kind, "any", world, (0, 1), simulations=120, few=2), with_peer=False
    )  # few: of slow competitors
    assert low <= found["ours"]["rate"] <= high
    if kind == "power":
        assert found["ours"]["drop"] == pytest.approx(0.1, abs=0.05)


def test_competing_intervals_by_hand():
    new = np.array([[1.0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1]])
    task, rng = Answers(np.zeros((3, 4)), new, None), np.random.default_rng(0)
    low, high = OWN["seeds only"]([task], rng)  # scores .75, 1, .5
    assert (low + high) / 2 == pytest.approx(0.75)
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, 2) * 0.25 / np.sqrt(3))
    low, high = OWN["items only"]([task], rng)  # item means 2/3, 1/3, 1, 1
    expected = stats.t.interval(0.95, 3, 0.75, stats.sem([2 / 3, 1 / 3, 1, 1]))
    assert (low, high) == pytest.approx(expected)
    assert OWN["ours"]([task], rng) == estimate_of([task]).ci95
    low, high = OWN["two-way bootstrap"]([task], rng)
    assert 0.1 < low < 0.75 < high <= 1.0


def test_one_checkpoint_is_tested_exactly_and_seeds_by_their_interval():
    reference, new = np.zeros((1, 8)), np.array([[1.0, 1, 1, 1, 1, 0, 0, 0]])
    assert p_of(Answers(reference, new, None)) == pytest.approx(2 / 2**5)
    both = Answers(np.zeros((2, 8)), np.vstack([new, new[:, ::-1]]), None)
    assert p_of(both) == estimate_of([both]).p


def test_names_of_cells_are_unique_and_goals_are_those_of_the_issue():
    cells = all_cells()
    assert len({cell.name for cell in cells}) == len(cells)
    goals = {cell.group: cell.goal for cell in cells}
    assert goals["items"] == goals["clusters"] == (0.93, 0.97) and goals["crossed"] == (0.92, 0.99)
    assert goals["group"][0] == 0.91 and goals["same-models"][1] == 0.06 and goals["holm"][1] == 0.05
    assert truth(with_drop(World(10, uneven=0.4), MARGIN)) == pytest.approx(-MARGIN)


measured = pytest.mark.skipif(not render.RESULTS.exists(), reason="nothing measured yet: make bench-statistics")


@measured
def test_the_committed_tables_are_those_of_the_committed_results(tmp_path):
    copy = tmp_path / "README.md"
    copy.write_text(render.README.read_text())
    render.update_readme(copy)
    assert copy.read_text() == render.README.read_text()


def test_a_missed_goal_is_named():
    entry = {"name": "a", "goal": [0.93, 0.97], "found": {"ours": {"rate": 0.92}}}
    assert render.missed([entry]) == ["`a`: 92.0 % (goal 93 to 97)"]
    assert render.missed([{**entry, "goal": [0.92, 0.99]}]) == []


@measured
def test_every_committed_cell_is_one_that_runs_today():
    found = json.loads(render.RESULTS.read_text())
    assert [entry["name"] for entry in found["cells"]] == [cell.name for cell in all_cells()]
    for entry in found["cells"]:
        assert found["figures"][f"{entry['name']}: ours"] == entry["found"]["ours"]["rate"]


def test_published_text_stays_between_its_markers():
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb"
    assert publish.between(text, "x", "new") == "a\n<!-- x -->\n\nnew\n\n<!-- /x -->\nb"
    with pytest.raises(ValueError, match="no markers"):
        publish.between(text, "y", "new")
    assert publish.markdown(["h"], [["1"], ["2"]]) == "| h |\n| --- |\n| 1 |\n| 2 |"
    assert publish.rounded({"a": [0.123456789, 3]}) == {"a": [0.123457, 3]}
