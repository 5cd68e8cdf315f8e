"""Sections of the page: what they hold, that it is bounded, and that data cannot break out of it."""

import json
import re
from dataclasses import replace

import pytest
from statsmodels.stats.proportion import proportion_confint
from synthetic_report import tiny, write

from eval import words
from eval.config import Comparison
from eval.report import build_report
from eval.report.charts import Table
from eval.report.page import Page, as_json, exported
from eval.report.sections import curves, items
from eval.reward_models import reward_models


def embedded(page: str, id: str) -> dict:
    return json.loads(re.search(rf'id="{id}">(.*?)</script>', page, re.S)[1])


def pair_of(tmp_path, before: list[int], after: list[int], **changes):
    """A report of base and SFT with these 0/1 scores."""
    a, b = tiny(tmp_path, "base", {"facts": before}), tiny(tmp_path, "sft", {"facts": after}, parent="base")
    return write(tmp_path, items=5, models=[a, b], target=[], retained=["facts"], comparison=Comparison(), **changes)


def test_data_in_the_page_cannot_close_its_element():
    text = as_json({"a": "</script><!--", "b": float("nan")})
    assert "<" not in text and json.loads(text) == {"a": "</script><!--", "b": None}
    assert exported('"x"', 0.25) == 'data-cells="[&#34;\\&#34;x\\&#34;&#34;, 0.25]"'


def test_tables_pick_columns_and_leave_gaps():
    assert Table.of([{"a": 1, "b": "x"}, {"a": 2}], {"b": "B", "a": "A"}) == Table(("B", "A"), (("x", 1), (None, 2)))
    shown = [words.number(cell) for cell in (None, "x", 0.0, 1234, -0.12345, 1.5, 123.456, -12345.6)]
    assert shown == ["–", "x", "0", "1,234", "−0.123", "1.50", "123.5", "−12,346"]


def test_items_say_how_many_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(items, "MOST", 2)
    page = build_report(pair_of(tmp_path, [1, 1, 0, 1, 0], [1, 1, 1, 0, 0]), tmp_path / "out").page.read_text()
    document = embedded(page, "items-data")
    scores = [row[3] for row in document["items"]]
    assert scores == [[0.0, 1.0], [1.0, 0.0]]  # those that changed come first
    assert "2 items of 5; 3 are left out" in page
    assert document["pairs"] == [{"reference": "base", "new": "sft", "seeds": [0], "sides": [[0, 1]]}]


def test_long_texts_are_cut_where_it_hurts_least(tmp_path):
    texts = items.Texts()
    assert texts.number(None) is None and texts.number("") is None
    assert [texts.number(text) for text in ("a", "b", "a")] == [0, 1, 0]
    texts.number("x" * 600 + "question", keep_end=True), texts.number("answer" + "x" * 600)
    assert texts.all[2].startswith("… x") and texts.all[2].endswith("question") and len(texts.all[2]) == 502
    assert texts.all[3].startswith("answer") and texts.all[3].endswith(" …")
    assert texts.size == 1 + 1 + 502 + 502


def test_items_stop_at_the_page_budget_of_text(tmp_path, monkeypatch):
    monkeypatch.setattr(items, "TEXTS", 1)
    page = build_report(pair_of(tmp_path, [1, 1, 0], [1, 0, 0]), tmp_path / "out").page.read_text()
    assert len(embedded(page, "items-data")["items"]) == 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The synthetic report with two evaluations along PPO's training, and what it left."""
    folder = tmp_path_factory.mktemp("whole")
    report = write(folder / "cells", items=40)
    models = [
        replace(model, snapshots=[replace(model, step=step) for step in (10, 20)]) if model.stage == "ppo" else model
        for model in report.models
    ]
    build_report(replace(report, models=models), folder / "out")
    return (
        report,
        (folder / "out" / "report.html").read_text(),
        json.loads((folder / "out" / "results.json").read_text()),
    )


def test_a_shared_base_stands_beside_every_seed(whole):
    document = embedded(whole[1], "items-data")
    pair = next(pair for pair in document["pairs"] if (pair["reference"], pair["new"]) == ("base", "ppo"))
    assert pair["sides"] == [[0, 4], [0, 5], [0, 6]]  # base; sft of three seeds; ppo of three seeds
    reading = {task["name"]: task for task in document["tasks"]}
    assert reading["lab_facts"] == {"name": "lab_facts", "unit": "acc", "binary": True, "up": True}
    assert reading["lab_texts"] == {"name": "lab_texts", "unit": "bits per byte", "binary": False, "up": False}
    text = next(row for row in document["items"] if document["tasks"][row[0]]["name"] == "lab_texts")
    assert all(0.5 < value < 2.0 for value in text[3])  # bits per byte, not log-likelihoods


def test_evaluations_along_training_are_drawn_by_arm_and_seed(whole):
    report, page, _ = whole
    assert "Hollow marks: evaluations along training" in page
    spec = json.loads(re.search(r'data-figure="along-retained">(.*?)</script>', page, re.S)[1])
    points = spec["data"]["values"]
    assert len(points) == 6
    drawn = next(row for row in points if (row["seed"], row["step"]) == (2, 10))
    model = next(model for model in report.models if (model.stage, model.seed) == ("ppo", 2))
    scores = [model.tasks[task].about["value"] for task in report.retained if task != "lab_texts"]
    assert drawn["value"] == pytest.approx(100 * sum(scores) / len(scores))


def test_models_without_evaluations_along_training_have_no_such_section(tmp_path):
    page = build_report(pair_of(tmp_path, [1, 1], [1, 0]), tmp_path / "out").page.read_text()
    assert 'id="along_training"' not in page and "Hollow marks" not in page


def test_reward_models_are_reported_with_intervals(tmp_path):
    measured = {"validation_pairs": 10, "validation_accuracy": 0.8, "validation_loss": 0.5, "pairs": 90}
    summary = {"stage": "reward", "seed": 1, **measured, "subsets": {"longer chosen": 0.75}}
    [model] = reward_models([summary])
    assert model.accuracy_ci == pytest.approx(proportion_confint(8, 10, method="wilson"))
    assert (model.nll, model.brier, model.subsets) == (0.5, None, {"longer chosen": 0.75})
    results = build_report(pair_of(tmp_path, [1, 1], [1, 0], reward_models=[summary]), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "results.json").read_text())["reward_models"][0]["accuracy"] == 0.8
    page = results.page.read_text()
    assert "<b>80.0</b>" in page and "49.0 to 94.3" in page and "longer chosen" in page and "Brier</th>" not in page


def test_over_optimisation_is_in_the_results_and_on_the_page(whole):
    _, page, results = whole
    [entry] = results["overoptimisation"]
    assert entry["arms"] == ["ppo"] and len(entry["runs"]) == 3 and entry["fit"]["a_ci"][0] < entry["fit"]["a"]
    assert 'data-figure="distance-gold"' in page and 'data-figure="distance-proxy"' in page
    assert f">{words.fixed(entry['fit']['a'])}</td>" in page


def test_every_link_of_the_contents_leads_somewhere(whole):
    links = re.findall(r'<li><a href="#([^"]+)">', whole[1])
    assert len(links) > 8 and all(f'<section id="{link}"' in whole[1] for link in links)


def test_many_curves_wait_in_a_fold(whole, monkeypatch):
    page = Page(whole[0], (), {})
    section = curves.section(page)
    assert len(section.charts) == 6 and not section.fold  # two losses, four quantities of PPO's rollouts
    monkeypatch.setattr(curves, "OPEN", 5)
    assert curves.section(page).fold


def test_layers_that_draw_the_same_numbers_share_them(whole):
    spec = json.loads(re.search(r'data-figure="ppo-rollout-kl">(.*?)</script>', whole[1], re.S)[1])
    assert [layer["data"]["name"] for layer in spec["layer"]] == ["data-0", "data-0", "data-1", "data-2"]  # line, hover
    assert all("values" not in layer["data"] for layer in spec["layer"]) and len(spec["datasets"]["data-0"]) == 300
