"""Calibration and diversity against numbers worked out by hand, and against scikit-learn."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.calibration import Bin, bin_of, ece, gaps, judge, reliability
from eval.diversity import distinct, ngrams, unique_share, within_prompts

LOG = math.log


def test_two_items_by_hand():
    """p = (.8, .2), right is the first; p = (.6, .4), right is the second."""
    judged = judge([[LOG(0.8), LOG(0.2)], [LOG(0.06), LOG(0.04)]], [0, 1])  # a common factor does not count
    assert judged.confidence == pytest.approx([0.8, 0.6])
    assert judged.hit.tolist() == [1, 0]
    assert judged.brier == pytest.approx([0.2**2 + 0.2**2, 0.6**2 + 0.6**2])
    assert judged.nll == pytest.approx([-LOG(0.8), -LOG(0.4)])
    assert ece(judged) == pytest.approx((0.2 + 0.6) / 2)  # each alone in its bin


def test_errors_cancel_inside_a_bin_and_not_between_bins():
    inside = judge([[LOG(0.75), LOG(0.25)]] * 4, [0, 0, 0, 1])
    assert ece(inside) == pytest.approx(0)
    between = judge([[LOG(0.95), LOG(0.05)], [LOG(0.55), LOG(0.45)]], [1, 0])
    assert ece(between) == pytest.approx((0.95 + 0.45) / 2)
    assert ece(between, bins=1) == pytest.approx(abs(1 - 1.5) / 2)


def test_bins_are_half_open_and_the_last_holds_1():
    assert bin_of(np.array([0.0, 0.1, 0.55, 0.999, 1.0])).tolist() == [0, 1, 5, 9, 9]
    judged = judge([[LOG(0.81), LOG(0.19)], [LOG(0.85), LOG(0.15)], [LOG(0.62), LOG(0.38)]], [0, 1, 0])
    low, high = reliability(judged)
    assert low == Bin(0.6, 0.7, 1, pytest.approx(0.62), 1.0)
    assert (high.low, high.high, high.n, high.accuracy) == (0.8, 0.9, 2, 0.5)
    assert high.confidence == pytest.approx(0.83)


def test_brier_and_log_loss_equal_scikit_learn_s():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn comes with lm-eval")
    draw = np.random.default_rng(3)
    lls, gold = draw.normal(-9, 3, (50, 2)), draw.integers(0, 2, 50)
    judged = judge(lls.tolist(), gold.tolist())
    p = 1 / (1 + np.exp(lls[:, 0] - lls[:, 1]))
    assert judged.brier.mean() / 2 == pytest.approx(metrics.brier_score_loss(gold, p), abs=1e-12)
    assert judged.nll.mean() == pytest.approx(metrics.log_loss(gold, p), abs=1e-12)


@settings(max_examples=50)
@given(st.lists(st.lists(st.floats(-50, 0), min_size=2, max_size=5), min_size=1, max_size=12), st.randoms())
def test_the_gaps_add_up_to_the_error(lls, choose: random.Random):
    judged = judge(lls, [choose.randrange(len(each)) for each in lls])
    assert ece(judged) == pytest.approx(np.abs(gaps(judged).sum(1)).sum() / len(lls))
    assert 0 <= ece(judged) <= 1
    weighted = sum(one.n * abs(one.accuracy - one.confidence) for one in reliability(judged)) / len(lls)
    assert ece(judged) == pytest.approx(weighted)


def test_words_and_marks():
    assert ngrams("He's here!", 1) == [("He",), ("'",), ("s",), ("here",), ("!",)]
    assert ngrams("a b c", 2) == [("a", "b"), ("b", "c")]
    assert ngrams("a", 2) == []


def test_distinct_n_by_hand():
    texts = ["a b a", "a b", "c"]
    assert distinct(texts, 1).value == 3 / 6  # a, b, c of a b a a b c
    assert distinct(texts, 2).value == 2 / 3  # ab, ba of ab ba ab
    assert distinct(["a a a a"], 1).value == 1 / 4
    assert math.isnan(distinct(["a"], 2).value)


def test_each_text_is_left_out_in_turn():
    texts = ["a b a", "a b", "c"]
    without = [3 / 3, 3 / 4, 2 / 5]  # a, b, c of a b c; of a b a c; a, b of a b a a b
    assert distinct(texts, 1).influence == pytest.approx([3 * 0.5 - 2 * value for value in without])


@settings(max_examples=40)
@given(
    st.lists(st.text("abc ", min_size=1, max_size=8).filter(str.strip), min_size=2, max_size=6), st.sampled_from([1, 2])
)
def test_leaving_out_equals_counting_again(texts, n):
    found = distinct(texts, n)
    for index, influence in enumerate(found.influence):
        left = distinct([*texts[:index], *texts[index + 1 :]], n).value
        if not math.isnan(left) and not math.isnan(found.value):
            assert influence == pytest.approx(len(texts) * found.value - (len(texts) - 1) * left)


def test_unique_answers_by_hand():
    found = unique_share(["yes", " yes ", "no", "maybe"])
    assert found.value == 3 / 4
    assert found.influence == pytest.approx([4 * 0.75 - 3 * 1] * 2 + [4 * 0.75 - 3 * 2 / 3] * 2)


def test_answers_to_one_prompt_are_compared_with_each_other_only():
    assert within_prompts([["a b", "a b"], ["a b", "c d"], ["a", "b"]], 2) == pytest.approx([0.5, 1.0, 1.0])


def test_the_jackknife_s_error_of_distinct_n_is_never_too_small():
    """200 answers of three words from 60: the spread over 400 fresh samples against the mean jackknife error."""
    draw = random.Random(0)
    words = [f"w{i}" for i in range(60)]
    values, errors = [], []
    for _ in range(400):
        found = distinct([" ".join(draw.choices(words, weights=range(1, 61), k=3)) for _ in range(200)], 2)
        values.append(found.value)
        errors.append(found.influence.std(ddof=1) / math.sqrt(200))
    assert 1 < np.mean(errors) / np.std(values) < 1.6
