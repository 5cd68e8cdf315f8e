"""Arms at equal gain: interpolation by hand, ranges that are not compared, and what shared draws do."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignment.core.errors import RecipeError
from eval.config import Frontier
from eval.frontier import at_gain, frontier
from eval.items import SCHEMA
from eval.results import MeasuredModel

ROLES = {"goal": "target", "old": "retained"}


def measured(folder, stage, seed, right, step=None, snapshots=(), n=200):
    """A model with `right[task]` of the first n items right; each seed's items are shifted, so that seeds differ a little."""
    place = folder / f"{stage}-{seed}-{step}"
    place.mkdir(parents=True)
    rows, tasks = [], {}
    for task, share in right.items():
        for item in range(n):
            score = float((item * 7 + seed * 3) % n < share * n)
            rows.append(
                dict.fromkeys(SCHEMA.names)
                | {"task": task, "filter": "none", "metric": "acc", "doc_id": item, "doc_hash": str(item)}
                | {"prompt_hash": str(item), "score": score, "truncated": False}
            )
        tasks[task] = {"metric": "acc", "higher_is_better": True, "role": ROLES[task], "value": share, "filter": "none"}
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), place / "items.parquet")
    (place / "evaluation.json").write_text(json.dumps({"tasks": tasks}))
    return MeasuredModel(stage, seed, None, "sft", place, {}, None, f"{stage}{seed}{step}", step, snapshots)


def arm(folder, stage, points, seeds=(0, 1, 2)):
    """points: (goal, old) along training; the last is the finished model."""
    models = []
    for seed in seeds:
        shots = [
            measured(folder, stage, seed, {"goal": goal, "old": old}, step=(number + 1) * 10)
            for number, (goal, old) in enumerate(points[:-1])
        ]
        models.append(measured(folder, stage, seed, dict(zip(ROLES, points[-1], strict=True)), snapshots=shots))
    return models


@pytest.fixture
def base(tmp_path):
    return [measured(tmp_path, "base", 0, {"goal": 0.0, "old": 1.0})]


def test_a_path_is_read_off_where_it_first_reaches_the_level_and_between_points_on_a_line():
    gain = np.array([[0.0, 0.2, 0.1, 0.6]])
    kept = np.array([[0.0, -0.1, -0.5, -0.3]])
    values = at_gain(gain, kept, np.array([0.1, 0.2, 0.4, 0.6, 0.61]))
    # .1: half way to the first point. .4: from (.1, -.5) to (.6, -.3), three fifths of the way. .61: never.
    np.testing.assert_allclose(values[0], [-0.05, -0.1, -0.38, -0.3, np.nan])


def test_a_path_that_starts_above_a_level_says_nothing_about_it():
    assert np.isnan(at_gain(np.array([[0.5, 0.8]]), np.array([[0.0, -0.1]]), np.array([0.4]))[0, 0])


def test_at_equal_gain_the_arm_that_loses_less_wins_by_the_difference_of_the_lines(base, tmp_path):
    """Both are straight lines from the base: at gain g the one has lost g / 4, the other g / 2. Mean over the common range, 0
    to .4: .05. The end points differ in gain, and say .1 against .2."""
    models = [
        *base,
        *arm(tmp_path, "gentle", [(0.2, 0.95), (0.4, 0.9)]),
        *arm(tmp_path, "harsh", [(0.2, 0.9), (0.4, 0.8), (0.8, 0.6)]),
    ]
    result = frontier(Frontier(base="base", arms={"harsh": ["harsh"], "gentle": ["gentle"]}), models, ROLES)
    (matched,) = result.matched
    assert matched.overlap == pytest.approx((0.0, 0.4))
    assert matched.difference == pytest.approx(0.05, abs=1e-3)
    assert [level.gain for level in matched.levels] == pytest.approx([0.1, 0.2, 0.3, 0.36])
    assert [level.difference for level in matched.levels] == pytest.approx([0.025, 0.05, 0.075, 0.09], abs=2e-3)
    assert matched.ci[0] < 0.05 < matched.ci[1] and matched.p == matched.p_adjusted < 0.05
    assert result.n_seeds == 3 and [p.step for p in result.points if p.arm == "harsh"] == [None, 10, 20, None]


def test_arms_that_reach_no_common_gain_are_not_compared(base, tmp_path):
    models = [*base, *arm(tmp_path, "stuck", [(0.0, 0.5)]), *arm(tmp_path, "good", [(0.8, 0.9)])]
    (matched,) = frontier(Frontier(base="base", arms={"stuck": ["stuck"], "good": ["good"]}), models, ROLES).matched
    assert matched.overlap is None and matched.difference is None and matched.levels == ()


def test_where_two_arms_share_their_way_they_do_not_differ_at_all(base, tmp_path):
    """The same seeds and the same items are drawn for both: nothing is left of their noise."""
    models = [*base, *arm(tmp_path, "sft", [(0.2, 0.9), (0.5, 0.8)]), *arm(tmp_path, "ppo", [(0.7, 0.8), (0.9, 0.7)])]
    declared = Frontier(base="base", arms={"sft": ["sft"], "both": ["sft", "ppo"]})
    (matched,) = frontier(declared, models, ROLES).matched
    assert matched.difference == 0 and matched.ci == (0, 0) and matched.p == 1


def test_of_several_strengths_the_best_at_each_gain_counts(base, tmp_path):
    models = [
        *base,
        *arm(tmp_path, "weak", [(0.4, 0.9)]),
        *arm(tmp_path, "strong", [(0.8, 0.2)]),
        *arm(tmp_path, "other", [(0.8, 0.6)]),
    ]
    declared = Frontier(base="base", arms={"other": ["other"], "swept": [["weak"], ["strong"]]})
    (matched,) = frontier(declared, models, ROLES).matched
    by_gain = {round(level.gain, 2): level for level in matched.levels}
    assert by_gain[0.2].new == pytest.approx(-0.05) and by_gain[0.6].new == pytest.approx(-0.6)
    assert by_gain[0.6].reference == pytest.approx(-0.3)


def test_a_level_that_many_resamples_miss_has_no_interval(base, tmp_path):
    """The last level lies at nine tenths of the range; with few items the best point of a noisy arm often falls below it."""
    models = [*base, *arm(tmp_path, "a", [(0.05, 0.9)]), *arm(tmp_path, "b", [(0.05, 0.8)])]
    (matched,) = frontier(Frontier(base="base", arms={"a": ["a"], "b": ["b"]}), models, ROLES).matched
    last = matched.levels[-1]
    assert last.reached < 0.95 and last.ci is None


def test_an_arm_that_was_not_measured_is_named(base):
    with pytest.raises(RecipeError, match="ghost was not evaluated"):
        frontier(Frontier(base="base", arms={"a": ["ghost"], "b": ["base"]}), base, ROLES)
