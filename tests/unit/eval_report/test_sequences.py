"""Tasks learned in a row: numbers worked out by hand from small matrices, intervals that know what orders share."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from synthetic_sequences import ORDERS, SKILLS, learner, report_of

from alignment.core.errors import SuiteError
from eval import statistics, words
from eval.config import Comparison, TaskSequence
from eval.report import build_report
from eval.results import results_json
from eval.sequence import (
    Order,
    average_forgetting,
    backward_differences,
    backward_transfer,
    forward_transfer,
    loss_from_best,
    mean_difference,
    measure_sequences,
)

# rows: base, after stage 1, 2, 3; columns: tasks in the order they are taught
R = np.array([[0.1, 0.2, 0.3], [0.9, 0.4, 0.3], [0.6, 0.8, 0.7], [0.5, 0.7, 0.9]])


def test_the_three_numbers_by_hand():
    # task 1: best before the end .9 (stage 1), end .5; task 2: best .8 (stage 2), end .7; task 3 is the last one
    assert average_forgetting(R) == pytest.approx(((0.9 - 0.5) + (0.8 - 0.7)) / 2)
    assert backward_transfer(R) == pytest.approx(((0.5 - 0.9) + (0.7 - 0.8)) / 2)
    # task 2 just before stage 2: .4 against the base's .2; task 3 just before stage 3: .7 against .3
    assert forward_transfer(R) == pytest.approx(((0.4 - 0.2) + (0.7 - 0.3)) / 2)


def test_forgetting_counts_from_the_best_stage_also_where_that_is_the_base_or_another_tasks():
    known_before = np.array([[0.95, 0.0], [0.9, 0.0], [0.5, 0.8]])
    assert average_forgetting(known_before) == pytest.approx(0.45)
    assert backward_transfer(known_before) == pytest.approx(-0.4)
    better_later = np.array([[0.0, 0.0, 0.0], [0.6, 0.0, 0.0], [0.8, 0.9, 0.0], [0.7, 0.9, 0.9]])
    assert average_forgetting(better_later) == pytest.approx(((0.8 - 0.7) + (0.9 - 0.9)) / 2)
    assert backward_transfer(better_later) == pytest.approx(((0.7 - 0.6) + 0.0) / 2)


def test_many_matrices_at_once_are_each_their_own():
    stacked = np.stack([R, R[:, ::1] * 0.5])
    for number in (average_forgetting, backward_transfer, forward_transfer):
        assert number(stacked) == pytest.approx([number(R), number(R) / 2])


def test_two_tasks_by_hand_from_items(tmp_path):
    """Four items a task. a: 0 before, 4 right when taught, 1 right at the end; b: 1 right at first, 2 before its own stage."""
    scores = {"base": ("0000", "1000"), "one": ("1111", "1010"), "two": ("0100", "1111")}
    report = report_of(tmp_path, {(stage, 0): dict(zip("ab", each, strict=True)) for stage, each in scores.items()})
    [order] = measure_sequences(report)
    assert order.orders[0][1].matrix.tolist() == [[0.0, 0.25], [1.0, 0.5], [0.25, 1.0]]
    assert (order.forgetting.value, order.backward.value, order.forward.value) == (0.75, -0.75, 0.25)
    assert order.backward.method == order.forgetting.method == "paired"
    assert order.notes and "three or more" in order.notes[0]
    # paired t interval over items: differences -1, 0, -1, -1 have a standard error of sqrt(.25 / 4)
    assert order.backward.se == pytest.approx(0.25)


def test_a_base_of_one_seed_serves_every_seed_and_each_seed_is_shown(tmp_path):
    cells = {("base", 0): {"a": "0000", "b": "0000"}}
    cells |= {("one", seed): {"a": "1111", "b": "0000"} for seed in (0, 1)}
    cells |= {("two", 0): {"a": "1100", "b": "1111"}, ("two", 1): {"a": "0000", "b": "1111"}}
    [order] = measure_sequences(report_of(tmp_path, cells))
    assert order.seeds == (0, 1) and order.backward.method == "crossed"
    assert order.per_seed(backward_transfer) == [-0.5, -1.0]
    assert order.backward.value == pytest.approx(-0.75)
    entry = order.as_json()
    assert entry["bwt"]["per_seed"] == [-0.5, -1.0] and entry["average_forgetting"]["per_seed"] == [0.5, 1.0]
    assert entry["scores"][2] == [0.25, 1.0] and entry["n"] == {"a": 4, "b": 4}


def test_no_interval_where_a_task_was_never_touched_is_not_certainty(tmp_path):
    same = {"a": "1111", "b": "0000"}
    [order] = measure_sequences(report_of(tmp_path, {("base", 0): same, ("one", 0): same, ("two", 0): same}))
    assert order.backward.value == 0 and order.backward.ci95[0] < 0 < order.backward.ci95[1]


def test_backward_transfer_of_one_order_is_the_group_mean_of_its_paired_differences(tmp_path):
    report = learner(tmp_path, seeds=(0, 1, 2), items=60)
    first = measure_sequences(report)[0]
    order = first.orders[0][1]
    tables = [order.scores[task][:, 3] - order.scores[task][:, stage] for stage, task in ((1, "a"), (2, "b"))]
    assert order.tasks == ("a", "b", "c")
    expected = statistics.group(tables)
    assert (first.backward.value, first.backward.se) == (expected.value, expected.se)
    assert first.backward.value == pytest.approx(backward_transfer(order.matrix))


def test_the_mean_over_orders_is_the_mean_of_their_values_and_of_its_seeds(tmp_path):
    *orders, mean = measure_sequences(learner(tmp_path, seeds=(0, 1, 2), items=60))
    assert (len(orders), mean.kind, mean.name) == (3, "mean", "all orders")
    for key in ("forgetting", "backward", "forward"):
        assert getattr(mean, key).value == pytest.approx(np.mean([getattr(order, key).value for order in orders]))
    for number in (average_forgetting, backward_transfer, forward_transfer):
        by_seed = np.mean([order.per_seed(number) for order in orders], axis=0)
        assert mean.per_seed(number) == pytest.approx(by_seed)


def test_an_order_measured_twice_is_no_more_certain_than_once(tmp_path):
    """Orders share items and seeds: taking them for independent samples would shrink the interval by sqrt(2)."""
    report = learner(tmp_path, seeds=(0, 1, 2), items=60)
    once = report.comparison.sequences[0]
    twice = report.comparison.model_copy(update={"sequences": [once, once.model_copy(update={"name": "again"})]})
    one, _, mean = measure_sequences(replace(report, comparison=twice))
    assert mean.backward.se == pytest.approx(one.backward.se)
    assert mean.forgetting.ci95 == pytest.approx(one.forgetting.ci95)


def test_two_methods_are_compared_item_by_item(tmp_path):
    report = learner(tmp_path, seeds=(0, 1, 2), items=60, methods={"plain": 0.5, "replay": 0.1})
    results = {each.name: each for each in measure_sequences(report)}
    difference = results["replay vs plain"]
    assert difference.kind == "difference"
    for key in ("forgetting", "backward", "forward"):
        assert getattr(difference, key).value == pytest.approx(
            getattr(results["replay"], key).value - getattr(results["plain"], key).value
        )
    assert difference.forgetting.ci95[1] < 0 < difference.backward.ci95[0]


def test_the_bootstrap_of_forgetting_agrees_with_the_crossed_interval_where_the_maximum_is_plain(tmp_path):
    """Each task is best right after its own stage, by far: then AF = -BWT, and so should be what is said of its spread."""
    mean = measure_sequences(learner(tmp_path, seeds=tuple(range(10)), items=400))[-1]
    assert mean.forgetting.value == pytest.approx(-mean.backward.value)
    assert mean.forgetting.se == pytest.approx(mean.backward.se, rel=0.25)


def test_the_interval_over_orders_covers_the_truth():
    """Drawn again and again: seeds and items differ, orders share both. Nominal 95 %; 300 draws tell 2.5 points either way."""
    rng = np.random.default_rng(5)
    covered, runs = 0, 300
    for _ in range(runs):
        seed_effect, item_effect = rng.normal(0, 0.1, (5, 1)), {task: rng.normal(0, 0.3, (1, 60)) for task in SKILLS}
        orders = []
        for name in ORDERS:
            scores = {task: np.zeros((5, 4, 60)) for task in SKILLS}
            for stage, task in enumerate(name[:2], 1):  # lost after its own stage: what BWT measures
                lost = -0.3 + seed_effect + item_effect[task] + rng.normal(0, 0.3, (5, 60))
                scores[task][:, stage], scores[task][:, 3] = 1.0, 1.0 + lost
            clusters = dict.fromkeys(SKILLS)
            stages = tuple(f"{name}{n}" for n in "123")
            orders.append((1 / 3, Order(name, "m", "base", stages, tuple(name), (0, 1, 2, 3, 4), scores, clusters)))
        low, high = mean_difference(orders, backward_differences).ci95
        covered += low <= -0.3 <= high
    assert 0.92 <= covered / runs <= 0.98


def test_bits_per_byte_are_refused(tmp_path):
    report = report_of(tmp_path, {(stage, 0): {"a": "01", "lab_texts": "01"} for stage in ("base", "one", "two")})
    with pytest.raises(SuiteError, match="'lab_texts' is measured in bits per byte"):
        measure_sequences(report)


def test_a_stage_that_was_not_evaluated_is_named(tmp_path):
    report = report_of(tmp_path, {(stage, 0): {"a": "01", "b": "01"} for stage in ("base", "one")})
    with pytest.raises(SuiteError, match="sequence a-b: two was not evaluated"):
        measure_sequences(report)


def test_other_items_on_one_side_are_refused(tmp_path):
    cells = {
        ("base", 0): {"a": "01", "b": "01"},
        ("one", 0): {"a": "011", "b": "01"},
        ("two", 0): {"a": "01", "b": "01"},
    }
    with pytest.raises(SuiteError, match="task a"):
        measure_sequences(report_of(tmp_path, cells))


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"base": "base", "stages": {"one": "a"}}, "at least 2 items"),
        ({"base": "one", "stages": {"one": "a", "two": "b"}}, "'one' is the base"),
        ({"base": "base", "stages": {"one": "a", "two": "a"}}, "each task is taught by one stage"),
    ],
)
def test_what_is_no_sequence_is_refused(declared, message):
    with pytest.raises(ValidationError, match=message):
        TaskSequence(name="x", **declared)


def test_sequences_have_names_of_their_own():
    one = {"name": "x", "base": "base", "stages": {"one": "a", "two": "b"}}
    with pytest.raises(ValidationError, match="each sequence a name of its own"):
        Comparison(sequences=[one, one])


def test_results_json_holds_every_sequence_and_no_recipe_without_has_any(tmp_path):
    report = learner(tmp_path, seeds=(0, 1), items=20)
    found = measure_sequences(report)
    document = results_json(report, [], sequences=found)
    assert [entry["name"] for entry in document["sequences"]] == [*ORDERS, "all orders"]
    assert document["sequences"][-1]["orders"] == list(ORDERS) and set(document["sequences"][-1]["tasks"]) == set(
        SKILLS
    )
    assert measure_sequences(replace(report, comparison=Comparison())) == []


def test_the_page_shows_every_order_with_its_table(tmp_path):
    results = build_report(learner(tmp_path / "cells", seeds=(0, 1), items=20), tmp_path / "out")
    page = results.page.read_text(encoding="utf-8")
    assert "Task after task" in page and "mean of 3 orders" in page
    assert [page.count(f'id="figure-sequence_{number}"') for number in range(4)] == [1, 1, 1, 0]
    first = results.data["sequences"][0]
    assert words.interval("acc", first["bwt"]["ci"]) in page
    assert f"{first['scores'][1][0] * 100:g}" in page


def test_where_nothing_is_forgotten_average_forgetting_rarely_says_so():
    """Every score is the same number and the luck of seed, stage and item: a maximum of scores would call that forgetting four times
    in five."""
    rng, said, values = np.random.default_rng(5), 0, []
    tasks, seeds, items = ("a", "b", "c", "d"), 3, 120
    for _ in range(200):
        scores = {}
        for task in tasks:
            liability = 0.5 + rng.normal(0, 1, items) + rng.normal(0, 0.25, (seeds, len(tasks) + 1, 1))
            scores[task] = (liability + rng.normal(0, 1, (seeds, len(tasks) + 1, items)) > 0).astype(float)
        order = Order("x", "plain", "base", tasks, tasks, (0, 1, 2), scores, dict.fromkeys(tasks))
        estimate = mean_difference([(1.0, order)], loss_from_best)
        said += estimate.p < 0.05 and estimate.value > 0
        values.append(estimate.value)
    assert said / 200 < 0.06  # 2.5 % on that side
    assert abs(np.mean(values)) < 0.01
