"""From rows of sequences to numbers with intervals: worked out by hand."""

import numpy as np
import pytest

from alignment.core.errors import SuiteError
from eval.divergence_arms import arm_divergences, ratio_interval
from eval.divergence_rows import write_rows
from eval.results import MeasuredModel
from eval.statistics import crossed


def model(folder, stage, seed, kls, tokens, documents=None, inputs="target"):
    cell = folder / f"{stage}{seed}"
    cell.mkdir()
    names = documents or [f"doc {index}" for index in range(len(kls))]
    rows = [
        {"reference": "base", "inputs": inputs, "direction": "forward", "doc_id": index, "doc_hash": name}
        | {"kl": kl, "tokens": count}
        for index, (name, kl, count) in enumerate(zip(names, kls, tokens, strict=True))
    ]
    write_rows(rows[::-1], cell)  # whatever the order in the file
    return MeasuredModel(stage, seed, "base", "sft", cell, {}, None, stage)


def test_per_sequence_is_a_mean_of_sums_and_per_token_a_ratio_of_sums(tmp_path):
    (found,) = arm_divergences([model(tmp_path, "sft", 0, [1.0, 3.0], [1, 5])])
    assert found.per_sequence.value == 2
    assert found.per_token == pytest.approx(4 / 6)  # not the mean of 1 and 0.6
    assert (found.n, found.tokens, found.per_seed) == (2, 3, ((0, 2.0),))
    assert found.per_sequence.method == "paired"


def test_seeds_and_inputs_are_crossed(tmp_path):
    kls = {0: [1.0, 3.0, 2.0], 1: [2.0, 4.5, 3.0]}
    (found,) = arm_divergences([model(tmp_path, "sft", seed, row, [2, 2, 2]) for seed, row in kls.items()])
    assert found.per_sequence == crossed(np.array(list(kls.values())))
    assert found.per_sequence.method == "crossed"
    assert found.per_seed == ((0, 2.0), (1, pytest.approx(9.5 / 3)))
    assert found.as_json()["ci"] == list(found.per_sequence.ci95)


def test_answers_of_different_lengths_in_each_seed_are_pooled(tmp_path):
    models = [model(tmp_path, "sft", 0, [1.0, 1.0], [1, 1]), model(tmp_path, "sft", 1, [1.0, 3.0], [5, 5])]
    (found,) = arm_divergences(models)
    assert found.per_token == pytest.approx(6 / 12)


def test_models_without_a_divergence_are_left_out(tmp_path):
    plain = MeasuredModel("base", 0, None, "pretrain", tmp_path, {}, None, "base")
    assert [arm.stage for arm in arm_divergences([plain, model(tmp_path, "sft", 0, [1.0], [1])])] == ["sft"]


def test_seeds_measured_on_other_inputs_are_refused(tmp_path):
    models = [model(tmp_path, "sft", 0, [1.0], [1], ["a"]), model(tmp_path, "sft", 1, [1.0], [1], ["b"])]
    with pytest.raises(SuiteError, match=r"sft \(seed 1\).*the inputs of the other seeds"):
        arm_divergences(models)


def test_the_interval_of_a_ratio_is_that_of_the_linearised_ratio():
    """Many documents, one seed: bootstrap and delta method agree."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 48, (1, 400)).astype(float)
    kl = tokens * 0.1 + rng.gamma(2, 0.5, (1, 400))
    value = kl.sum() / tokens.sum()
    linear = crossed(value + (kl - value * tokens) / tokens.mean())
    low, high = ratio_interval(kl, tokens)
    assert (low, high) == pytest.approx(linear.ci95, abs=0.08 * (linear.ci95[1] - linear.ci95[0]))


def test_the_interval_of_a_ratio_knows_that_seeds_differ():
    """Every seed is certain within itself: all of the width comes from the seeds."""
    tokens = np.full((3, 50), 10.0)
    kl = tokens * np.array([[0.1], [0.2], [0.3]])
    low, high = ratio_interval(kl, tokens)
    assert low < 0.15
    assert high > 0.25
