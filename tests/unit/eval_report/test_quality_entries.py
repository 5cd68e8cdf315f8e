"""Calibration, diversity and the two formats, from the stored items of finished models to `results.json` and the page."""

import json
import math

import numpy as np
import pytest
from synthetic_report import write, write_evaluation

from eval.calibration import ece, judge
from eval.diversity import distinct
from eval.formats import format_readings
from eval.items import SCHEMA
from eval.quality import quality, quality_changes
from eval.report import build_report
from eval.results import MeasuredModel

ABOUT = {
    "metric": "acc", "role": "retained", "filter": "none", "higher_is_better": True, "backend": "hf", "dtype": "fp32",
    "format": "plain", "task_version": "1", "data_digest": "d", "chat_template_digest": None, "settings_digest": "s",
    "truncated": 0, "chance": 0.5, "sampled": False,
}  # fmt: skip


def row(task, i, **fields):
    keys = {"doc_id": i, "doc_hash": f"d{i}", "prompt_hash": f"{task}{i}", "target_hash": "t", "truncated": False}
    return dict.fromkeys(SCHEMA.names) | {"task": task, "filter": "none", "metric": "acc"} | keys | fields


def choice_rows(task, confidences, hits):
    """Two choices; the likelier one has that probability and is right where it hits."""
    return [
        row(task, i, score=float(hit), choice_lls=[math.log(p), math.log(1 - p)], gold_choice=0 if hit else 1)
        for i, (p, hit) in enumerate(zip(confidences, hits, strict=True))
    ]


def answer_rows(task, answers):
    return [
        row(task, i, metric="gold", score=0.5, output=each[0], samples=each if len(each) > 1 else None)
        for i, each in enumerate(answers)
    ]


def model(folder, stage, rows, seed=0, parent=None, **abouts):
    tasks = {}
    for task in dict.fromkeys(row["task"] for row in rows):
        mine = [row for row in rows if row["task"] == task]
        value = float(np.mean([row["score"] for row in mine]))
        tasks[task] = ABOUT | {"n": len(mine), "value": value, "metric": mine[0]["metric"]} | abouts.get(task, {})
    cell = folder / f"{stage}-{seed}"
    write_evaluation(cell, rows, tasks)
    return MeasuredModel(stage, seed, parent, "sft", cell, {}, None, f"{stage}{seed}")


def report_of(folder, models, retained, extra=()):
    return write(folder / "unused", (0,), 8, models=models, target=[], retained=retained, extra=list(extra))


def test_calibration_of_each_arm_and_its_change(tmp_path):
    sure, hits = [0.92, 0.83, 0.71, 0.64], [1, 1, 0, 1]
    surer = [0.99, 0.95, 0.91, 0.85]
    base = model(tmp_path, "sft", choice_rows("t", sure, hits))
    new = [model(tmp_path, "ppo", choice_rows("t", surer, hits), seed, "sft") for seed in (0, 1)]
    report = report_of(tmp_path, [base, *new], ["t"])
    found = {(each.stage, each.measure): each for each in quality(report)}
    assert set(found) == {(arm, name) for arm in ("sft", "ppo") for name in ("ece", "brier", "nll")}
    assert found["sft", "ece"].value == pytest.approx((0.08 + 0.17 + 0.71 + 0.36) / 4)  # four bins with one item each
    assert found["sft", "brier"].value == pytest.approx(2 * (0.08**2 + 0.17**2 + 0.71**2 + 0.36**2) / 4)
    assert found["sft", "nll"].value == pytest.approx(
        -(math.log(0.92) + math.log(0.83) + math.log(0.29) + math.log(0.64)) / 4
    )
    assert [one.n for one in found["ppo", "ece"].bins] == [2, 6]  # both seeds together: .85, and .99 .95 .91
    changes = {change.measure: change for change in quality_changes(report)}
    nll = np.array([-math.log(p if hit else 1 - p) for p, hit in zip(surer, hits, strict=True)])
    before = np.array([-math.log(p if hit else 1 - p) for p, hit in zip(sure, hits, strict=True)])
    assert changes["nll"].delta == pytest.approx((nll - before).mean())
    assert (changes["nll"].ci_method, changes["ece"].ci_method) == ("crossed", "bootstrap")
    assert changes["ece"].delta == pytest.approx(found["ppo", "ece"].value - found["sft", "ece"].value)
    low, high = changes["ece"].ci
    assert low <= changes["ece"].delta <= high


def test_the_interval_of_the_calibration_error_is_that_of_fresh_items(tmp_path):
    """Truth by simulation: 200 pairs of an overconfident and an honest model on 150 fresh items."""
    rng = np.random.default_rng(1)

    def draw():
        p = rng.uniform(0.5, 0.99, 150)
        hits = rng.random(150) < p
        shifted = np.clip(p + 0.08, None, 0.995)
        return [np.log(np.stack([q, 1 - q], 1)).tolist() for q in (p, shifted)], (1 - hits.astype(int)).tolist()

    spread = []
    for _ in range(200):
        lls, gold = draw()
        spread.append(ece(judge(lls[1], gold)) - ece(judge(lls[0], gold)))
    lls, gold = draw()
    models = []
    for name, parent, mine in (("sft", None, lls[0]), ("ppo", "sft", lls[1])):
        rows = [
            row("t", i, score=float(right == 0), choice_lls=each, gold_choice=right)
            for i, (each, right) in enumerate(zip(mine, gold, strict=True))
        ]
        models.append(model(tmp_path, name, rows, parent=parent))
    (change,) = [each for each in quality_changes(report_of(tmp_path, models, ["t"])) if each.measure == "ece"]
    width = change.ci[1] - change.ci[0]
    assert width == pytest.approx(2 * 1.96 * float(np.std(spread)), rel=0.35)
    assert change.ci[0] < float(np.mean(spread)) < change.ci[1]


def test_scores_that_are_not_the_likeliest_choice_have_no_calibration(tmp_path):
    rows = choice_rows("t", [0.9, 0.8], [1, 1])
    rows[1]["score"] = 0.0  # judged by length-normalised likelihood, say
    assert quality(report_of(tmp_path, [model(tmp_path, "sft", rows)], ["t"])) == []
    rows = choice_rows("u", [0.9, 0.8], [1, 1])
    rows[0]["gold_choice"] = None
    assert quality(report_of(tmp_path, [model(tmp_path, "ppo", rows)], ["u"])) == []


def test_diversity_of_sampled_answers_and_its_change(tmp_path):
    before = [["a b", "a c"], ["d e", "f g"], ["h i", "h i"]]
    after = [["a b", "a b"], ["a b", "a b"], ["a b", "a c"]]
    sampled = {"t": {"sampled": True, "samples": 2}}
    models = [
        model(tmp_path, "sft", answer_rows("t", before), **sampled),
        model(tmp_path, "ppo", answer_rows("t", after), parent="sft", **sampled),
    ]
    report = report_of(tmp_path, models, ["t"])
    found = {(each.stage, each.measure): each.value for each in quality(report)}
    assert found["sft", "distinct-1"] == 1.0  # a b d e h i, of the first answers
    assert found["ppo", "distinct-1"] == 2 / 6
    assert found["ppo", "unique"] == 1 / 3
    assert ("sft", "distinct-3") not in found, "no answer has three words"
    assert found["sft", "prompt distinct-2"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert found["ppo", "prompt unique"] == pytest.approx((0.5 + 0.5 + 1) / 3)
    changes = {change.measure: change for change in quality_changes(report)}
    assert "distinct-3" not in changes
    assert changes["distinct-1"].delta == pytest.approx(2 / 6 - 1)
    assert changes["distinct-1"].ci_method == "jackknife"
    influence = distinct(["a b"] * 3, 1).influence - distinct(["a b", "d e", "h i"], 1).influence
    half = 4.302652729911275 * influence.std(ddof=1) / math.sqrt(3)  # t, 2 degrees of freedom
    assert changes["distinct-1"].ci == pytest.approx((2 / 6 - 1 - half, 2 / 6 - 1 + half))
    assert changes["prompt unique"].delta == pytest.approx((-0.5 - 0.5 + 0.5) / 3)


def test_greedy_answers_have_no_diversity(tmp_path):
    rows = answer_rows("t", [["a b"], ["c d"]])
    assert quality(report_of(tmp_path, [model(tmp_path, "sft", rows)], ["t"])) == []


def score_rows(task, scores):
    return [row(task, i, score=float(score)) for i, score in enumerate(scores)]


CASES = {  # of 200 items right, the first or (-) the last: reference as before, in chat; new as before, in chat
    "kept": (180, 20, 178, 180),
    "hidden": (180, 20, 90, 179),
    "forgotten": (180, 20, 90, 92),
    "open": (180, 20, 90, -170),
}


@pytest.mark.parametrize("expected", CASES)
def test_forgotten_is_told_from_hidden(tmp_path, expected):
    numbers = np.arange(200)
    plain0, chat0, plain1, chat1 = (numbers < n if n > 0 else numbers >= 200 + n for n in CASES[expected])
    chat = {"t@chat": {"format": "chat", "role": "extra", "chat_template_digest": "c"}}
    models = [
        model(tmp_path, "sft", score_rows("t", plain0) + score_rows("t@chat", chat0), **chat),
        model(tmp_path, "ppo", score_rows("t", plain1) + score_rows("t@chat", chat1), parent="sft", **chat),
    ]
    (reading,) = format_readings(report_of(tmp_path, models, ["t"], ["t@chat"]))
    assert reading.reading == expected
    assert (reading.own, reading.other) == ("t", "t@chat")
    right = [abs(count) / 200 for count in CASES[expected]]
    assert reading.own_values == pytest.approx((right[0], right[2]))
    assert reading.other_values == pytest.approx((right[1], right[3]))
    assert reading.across.value == pytest.approx(right[3] - right[0])
    assert reading.other_change.value == pytest.approx(right[3] - right[1])


def test_all_of_it_is_in_results_json_and_on_the_page(tmp_path):
    folder = tmp_path / "report"
    chat = {
        "t@chat": {"format": "chat", "role": "extra", "chat_template_digest": "c"},
        "s": {"sampled": True, "samples": 2},
    }

    def rows(hits, answers):
        mine = choice_rows("t", [0.9, 0.8, 0.7, 0.6] * 5, hits)
        twin = [each | {"task": "t@chat", "prompt_hash": f"c{i}"} for i, each in enumerate(mine)]
        return mine + twin + answer_rows("s", answers)

    models = [
        model(tmp_path, "sft", rows([1] * 20, [["a b", "c d"]] * 4), **chat),
        model(tmp_path, "ppo", rows([1, 0] * 10, [["a b", "a b"]] * 4), parent="sft", **chat),
    ]
    report = write(tmp_path / "unused", (0,), 8, models=models, target=["s"], retained=["t"], extra=["t@chat"])
    results = build_report(report, folder)
    data = json.loads((folder / "results.json").read_text())
    assert {entry["measure"] for entry in data["quality"]} >= {"ece", "brier", "nll", "distinct-2", "prompt unique"}
    assert data["quality_changes"][0].keys() == {
        "reference", "new", "task", "measure", "delta", "ci", "ci_method", "n", "n_seeds"
    }  # fmt: skip
    assert data["formats"][0]["own"] == "t"
    page = results.page.read_text()
    assert "Calibration and diversity" in page
    assert "Forgotten, or hidden by the format" in page
    assert 'id="figure-reliability"' in page
