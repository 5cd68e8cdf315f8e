"""Arms at equal gain: interpolation by hand, ranges that are not compared, and what shared draws do."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignment.core.errors import RecipeError, SuiteError
from eval.config import Frontier
from eval.equal_gain import Plane, TaskScores, at_gain, differences
from eval.frontier import frontier
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
    gain = np.array([0.0, 0.2, 0.1, 0.6])
    kept = np.array([0.0, -0.1, -0.5, -0.3])
    values = at_gain(gain, kept, np.array([0.1, 0.2, 0.4, 0.6, 0.61]))
    # .1: half way to the first point. .4: from (.1, -.5) to (.6, -.3), three fifths of the way. .61: never.
    np.testing.assert_allclose(values, [-0.05, -0.1, -0.38, -0.3, np.nan])


def test_a_path_that_starts_above_a_level_says_nothing_about_it():
    assert np.isnan(at_gain(np.array([0.5, 0.8]), np.array([0.0, -0.1]), np.array([0.4]))[0])


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


def test_where_two_arms_go_the_same_way_there_is_nothing_to_compare(base, tmp_path):
    """Both go on from the same SFT model: only gains beyond its own tell them apart, and the shared way would dilute them."""
    models = [
        *base,
        *arm(tmp_path, "sft", [(0.2, 0.9), (0.5, 0.8)]),
        *arm(tmp_path, "ppo", [(0.9, 0.7)]),
        *arm(tmp_path, "more", [(0.7, 0.5)]),
    ]
    arms = {"sft": ["sft"], "ppo": ["sft", "ppo"], "more": ["sft", "more"]}
    declared = Frontier(base="base", arms=arms, contrasts=[("sft", "ppo"), ("more", "ppo")])
    alone, both = frontier(declared, models, ROLES).matched
    assert alone.overlap is None
    assert both.overlap == pytest.approx((0.5, 0.7))
    # From (.5, -.2): ppo falls by .1 over a gain of .4, more by .3 over .2. In the middle, at .6: -.225 against -.35.
    assert both.difference == pytest.approx(0.125, abs=1e-3)


def test_of_several_strengths_the_mean_of_those_that_reach_a_gain_counts(base, tmp_path):
    """Not the best of them: that would be the luckiest, and an arm with more strengths would win."""
    models = [
        *base,
        *arm(tmp_path, "weak", [(0.4, 0.9)]),
        *arm(tmp_path, "strong", [(0.8, 0.2)]),
        *arm(tmp_path, "other", [(0.8, 0.6)]),
    ]
    declared = Frontier(base="base", arms={"other": ["other"], "swept": [["weak"], ["strong"]]})
    (matched,) = frontier(declared, models, ROLES).matched
    by_gain = {round(level.gain, 2): level for level in matched.levels}
    assert by_gain[0.2].new == pytest.approx((-0.05 - 0.2) / 2) and by_gain[0.6].new == pytest.approx(-0.6)
    assert by_gain[0.6].reference == pytest.approx(-0.3)


def test_a_task_of_one_cluster_leaves_what_does_not_depend_on_it_alone():
    rng = np.random.default_rng(0)
    target = TaskScores(rng.random((3, 2, 50)), np.ones(50), 1, None)
    apart, together = (TaskScores(rng.random((3, 2, 40)), np.ones(40), 1, c) for c in (None, np.array(["a"] * 40)))
    gains = [Plane([target], [kept]).estimate(lambda x, _: float(x[1])).ci95 for kept in (apart, together)]
    assert gains[0] == gains[1]
    assert Plane([target], [together]).estimate(lambda _, y: float(y[1])).ci95 == (-np.inf, np.inf)


def test_seeds_are_paired_by_their_numbers_and_refused_where_they_differ(base, tmp_path):
    declared = Frontier(base="base", arms={"a": ["a"], "b": ["b"]})
    same = [*arm(tmp_path, "a", [(0.5, 0.9)], seeds=(2, 0)), *arm(tmp_path, "b", [(0.5, 0.8)], seeds=(0, 2))]
    assert frontier(declared, [*base, *same], ROLES).n_seeds == 2
    other = [*same[:2], *arm(tmp_path / "other", "b", [(0.5, 0.8)], seeds=(0, 1))]
    with pytest.raises(SuiteError, match=r"a was measured at the seeds \[0, 2\], b at \[0, 1\]"):
        frontier(declared, [*base, *other], ROLES)


def two_alike(rng, seeds, effect=0.0, n=300, points=4):
    """Two arms on the way to a gain of .3, of which each loses half as much; the second loses `effect` of a gain less. Seeds differ
    by 3 points on both axes. Binary scores."""
    base_goal, base_old = rng.random(n) < 0.3, rng.random(n) < 0.8
    goal, old = [np.tile(base_goal, (seeds, 1))], [np.tile(base_old, (seeds, 1))]
    for slope in (0.5, 0.5 - effect):
        shift_goal, shift_old = rng.normal(0, 0.03, (2, seeds))
        for gain in 0.3 * np.arange(1, points + 1) / points:
            learned = rng.random((seeds, n)) < (np.clip(gain + shift_goal, 0, 1) / 0.7)[:, None]
            lost = rng.random((seeds, n)) < (np.clip(slope * gain + shift_old, 0, 1) / 0.8)[:, None]
            goal.append(base_goal | learned)
            old.append(base_old & ~lost)
    scores = [TaskScores(np.stack(table, 1).astype(float), np.ones(n), 1, None) for table in (goal, old)]
    plane = Plane(scores[:1], scores[1:])
    return differences(plane, [[0, *range(1, points + 1)]], [[0, *range(points + 1, 2 * points + 1)]])


@pytest.mark.parametrize("seeds", [3, 5])
def test_arms_that_are_alike_are_rarely_called_different_and_a_difference_is_covered(seeds):
    rng = np.random.default_rng(seeds)
    alike = [two_alike(rng, seeds)[1] for _ in range(300)]
    assert np.mean([e.p < 0.05 for e in alike]) < 0.085  # .05 and 2.8 standard errors of 300 experiments
    covered = []
    for _ in range(300):
        (low, high), mean, _ = two_alike(rng, seeds, effect=0.3)
        covered.append(mean.ci95[0] <= 0.3 * (low + high) / 2 <= mean.ci95[1])
    assert np.mean(covered) > 0.91


def test_an_arm_that_was_not_measured_is_named(base):
    with pytest.raises(RecipeError, match="ghost was not evaluated"):
        frontier(Frontier(base="base", arms={"a": ["ghost"], "b": ["base"]}), base, ROLES)
