"""Figures of a classifier by hand, and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

from alignment.classify.figures import class_figures, classification, confusion, macro_f1


def test_three_labels_by_hand():
    """a: 2 of 3 found; b: always called a; c: found, and once wrongly."""
    table = confusion(truth=[0, 0, 0, 1, 2], predicted=[0, 0, 2, 0, 2], labels=3)
    assert table.tolist() == [[2, 0, 1], [1, 0, 0], [0, 0, 1]]
    found = classification(table, ["a", "b", "c"])
    assert found["accuracy"] == 3 / 5
    assert found["classes"]["a"] == {"precision": 2 / 3, "recall": 2 / 3, "f1": pytest.approx(2 / 3), "rows": 3}
    assert found["classes"]["b"] == {"precision": 0, "recall": 0, "f1": 0, "rows": 1}
    assert found["classes"]["c"] == {"precision": 1 / 2, "recall": 1, "f1": pytest.approx(2 / 3), "rows": 1}
    assert found["macro_f1"] == pytest.approx((2 / 3 + 0 + 2 / 3) / 3)
    assert found["confusion"] == table.tolist()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_as_scikit_learn_has_them(pairs):
    truth, predicted = zip(*pairs, strict=True)
    table = confusion(truth, predicted, 4)
    labels = range(4)
    assert (table == confusion_matrix(truth, predicted, labels=labels)).all()
    theirs = precision_recall_fscore_support(truth, predicted, labels=labels, zero_division=0)
    for ours, name in zip(theirs, ("precision", "recall", "f1"), strict=False):
        np.testing.assert_allclose(class_figures(table)[name], ours)
    average = f1_score(truth, predicted, labels=labels, average="macro", zero_division=0)
    assert macro_f1(table) == pytest.approx(average)
    assert macro_f1(np.stack([table, table])).shape == (2,)
