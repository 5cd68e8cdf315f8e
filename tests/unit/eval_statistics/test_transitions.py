"""What was right before and after, counted and tested by hand."""

import numpy as np
import pytest

from eval.transitions import Transitions, churn_floor, mcnemar, transitions


def test_transitions_and_the_guessing_correction_by_hand():
    before = np.array([[1, 1, 1, 0, 0, 0, 0, 0, 1, 1]])
    after = np.array([[1, 1, 0, 0, 0, 0, 1, 1, 1, 0]])
    counts = transitions(before, after)
    assert (counts.n11, counts.n10, counts.n01, counts.n00) == (3, 2, 2, 3)
    assert counts.forgetting == pytest.approx(0.2) and counts.backward_transfer == pytest.approx(0.2)
    assert counts.guessing(0.25) == pytest.approx(0.5 * 0.5 / 3)  # a0 = a1 = .5, k = 4
    assert counts.guessing(None) is None and counts.guessing(0.0) is None


def test_churn_floor_is_half_the_disagreement_between_seeds():
    assert churn_floor(np.array([[1, 1, 0, 0], [1, 0, 1, 0]])) == pytest.approx(0.25)
    assert churn_floor(np.array([[1, 1, 0, 0]])) is None


def test_mcnemar_is_the_exact_binomial():
    counts = Transitions(n11=50, n10=8, n01=1, n00=10)
    assert mcnemar(counts) == pytest.approx(2 * (1 + 9) / 2**9)  # 9 changed, 1 or fewer the other way
    assert mcnemar(Transitions(5, 0, 0, 5)) == 1.0
