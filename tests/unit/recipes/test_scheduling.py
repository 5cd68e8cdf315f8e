"""The order in which cells run, and how long the rest is said to take, worked out by hand."""

from types import SimpleNamespace

import pytest

from alignment.core.config import StageConfig
from alignment.core.store import Store
from recipes.estimate import Estimate
from recipes.plan import Cell
from recipes.runner import _chain_weights, _depth


def cell(stage, kind, *needs):
    inputs = {f"input{i}": needed for i, needed in enumerate(needs)}
    return Cell(stage, StageConfig(kind=kind), 0, None, {}, stage, inputs)


@pytest.fixture
def cells():
    base = cell("base", "pretrain")  # weight 8
    sft = cell("sft", "sft", base)  # weight 2
    ppo = cell("ppo", "ppo", sft)  # weight 5
    look = cell("look", "evaluate", sft)  # weight 1
    return base, sft, ppo, look


def test_the_longest_chain_comes_first(cells):
    base, sft, ppo, look = cells
    assert _chain_weights([base, sft, ppo, look]) == {base: 15, sft: 7, ppo: 5, look: 1}
    assert [_depth(one) for one in cells] == [1, 2, 3, 3]


def test_without_any_knowledge_nothing_is_claimed(cells, tmp_path):
    estimate = Estimate(Store(tmp_path), cells, jobs=2, expected_seconds=None)
    assert estimate.seconds_left([], cells) is None


def test_the_recipe_s_minutes_scale_the_weights(cells, tmp_path):
    estimate = Estimate(Store(tmp_path), cells, jobs=2, expected_seconds=160)  # 16 weights by 2 jobs: 20 s a weight
    assert estimate.cell_seconds(cells[2]) == 100
    assert estimate.seconds_left([], cells) == 300  # the chain base, sft, ppo is longer than half of the work


def test_measured_seconds_replace_the_recipe_s(cells, tmp_path):
    _, sft, _, look = cells
    estimate = Estimate(Store(tmp_path), cells, jobs=2, expected_seconds=160)
    for seconds in (10, 30, 11):
        estimate.learn(sft, seconds)
    assert estimate.cell_seconds(sft) == 11
    assert estimate.seconds_left([], [sft, look]) == 11 + 20


def test_time_already_spent_counts(cells, tmp_path, monkeypatch):
    base, sft, *_ = cells
    estimate = Estimate(Store(tmp_path), cells, jobs=1, expected_seconds=160)  # 10 s a weight
    monkeypatch.setattr("recipes.estimate.time.time", lambda: 1030.0)
    running = [SimpleNamespace(cell=base, started=1000.0)]
    assert estimate.seconds_left(running, [sft]) == pytest.approx(50 + 20)  # type: ignore[arg-type]
