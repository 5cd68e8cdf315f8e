"""Macro F1, classes and confusions of tasks of labels, from scored items; and their place on the page."""

import json

import numpy as np
import pytest
from sklearn.metrics import f1_score
from synthetic_report import _entry, _row, write, write_evaluation

from eval.classification import classifications, f1_changes
from eval.config import Comparison
from eval.report import build_report
from eval.results import MeasuredModel

LABELS = ["negative", "neutral", "positive"]
TRUTH = [0, 0, 0, 0, 1, 2, 2, 2]


def arm(folder, stage, given, seed=0, parent=None):
    """A model that gives these labels to rows whose right ones are TRUTH."""
    rows = []
    for place, (right, label) in enumerate(zip(TRUTH, given, strict=True)):
        row = _row("sst", stage, seed, place, 2.0 * (right == label) - 1, 0.0, 80, np.random.default_rng(0))
        lls = [0.0 if number == label else -1.0 for number in range(3)]
        row |= {"metric": "acc", "score": float(right == label), "choice_lls": lls, "gold_choice": right}
        rows.append(row | {"output": LABELS[label], "target": LABELS[right]})
    cell = folder / f"{stage}-{seed}"
    write_evaluation(cell, rows, {"sst": _entry("sst", rows) | {"metric": "acc", "labels": LABELS, "role": "target"}})
    return MeasuredModel(stage, seed, parent, "classify", cell, {}, None, f"{stage}{seed}")


@pytest.fixture
def report(tmp_path):
    words = arm(tmp_path, "words", [0, 0, 1, 2, 1, 2, 0, 2])
    heads = [arm(tmp_path, "head", given, seed) for seed, given in enumerate(([0, 0, 0, 2, 1, 2, 2, 2], [0] * 8))]
    comparison = Comparison(contrasts=[("words", "head")])
    return write(tmp_path, items=5, models=[words, *heads], target=["sst"], retained=[], comparison=comparison)


def test_figures_of_an_arm_are_those_of_its_seeds_together(report):
    words, head = classifications(report)
    assert words.confusion == [[2, 1, 1], [0, 1, 0], [1, 0, 2]]
    assert words.accuracy == 5 / 8
    assert words.classes["negative"] == {"precision": 2 / 3, "recall": 2 / 4, "f1": pytest.approx(4 / 7), "rows": 4}
    assert words.macro_f1 == pytest.approx(f1_score(TRUTH, [0, 0, 1, 2, 1, 2, 0, 2], average="macro"))
    assert head.confusion == [[7, 0, 1], [1, 1, 0], [3, 0, 3]]
    assert dict(head.per_seed)[1] == pytest.approx((2 * 4 / 12 + 0 + 0) / 3)
    assert head.accuracy == pytest.approx((7 / 8 + 4 / 8) / 2)


def test_changes_of_f1_are_paired_and_nothing_changes_against_oneself(report, tmp_path):
    [change] = f1_changes(report)
    words, head = classifications(report)
    assert (change.reference, change.new, change.n, change.n_seeds) == ("words", "head", 8, 2)
    assert change.delta == pytest.approx(head.macro_f1 - words.macro_f1)
    assert change.ci[0] < change.delta < change.ci[1]
    twin = arm(tmp_path, "twin", [0, 0, 1, 2, 1, 2, 0, 2])
    same = write(
        tmp_path,
        models=[report.models[0], twin],
        target=["sst"],
        retained=[],
        comparison=Comparison(contrasts=[("words", "twin")]),
    )
    [change] = f1_changes(same)
    assert (change.delta, change.ci) == (0, (0, 0))  # the same draw on both sides


def test_the_page_has_a_table_of_classes_and_the_results_hold_it(report, tmp_path):
    results = build_report(report, tmp_path / "out")
    page = results.page.read_text()
    assert 'id="classification"' in page
    assert "negative 2, neutral 1, positive 1" in page
    assert "is right in 50.0 (sst)" in page
    data = json.loads((tmp_path / "out" / "results.json").read_text())
    assert data["classification"][0]["confusion"] == [[2, 1, 1], [0, 1, 0], [1, 0, 2]]
    assert data["f1_changes"][0]["delta"] == pytest.approx(f1_changes(report)[0].delta)


def test_reports_without_labels_have_no_such_section(tmp_path):
    assert classifications(write(tmp_path, items=4)) == []
