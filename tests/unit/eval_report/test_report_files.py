"""The files a report leaves: the schema, numbers that follow from the items, a page that stands alone and escapes
what models wrote."""

import json
import math
import re
import time
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from synthetic_report import ATTACK, tiny, write

from alignment.core.errors import SuiteError
from eval.config import Comparison
from eval.report import build_report

STAGE = {"id", "parent", "seed", "weights_digest", "tokens", "steps", "seconds"}
EVALUATION = {
    "stage", "seed", "task", "role", "metric", "filter", "value", "n", "chance", "higher_is_better", "backend", "dtype",
    "task_version", "data_digest", "truncated",
}  # fmt: skip
COMPARISON = {
    "reference", "new", "task", "metric", "delta", "ci", "ci_method", "scope", "n", "n_seeds", "n11", "n10", "n01", "n00", "f_adj",
    "churn_floor", "p", "p_adjusted", "p_method", "p_retained", "p_equivalent", "mde80", "margin", "verdict", "warnings",
}  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    report = write(folder / "cells")
    began = time.process_time()  # wall time would measure what else the machine does
    results = build_report(report, folder / "out")
    return report, results, folder / "out", time.process_time() - began


def test_rebuilding_takes_under_ten_seconds(built):
    assert built[3] < 10


def test_results_follow_the_schema(built):
    document = json.loads((built[2] / "results.json").read_text())
    always = [
        "schema", "run_id", "recipe_digest", "code_commit", "versions", "stages", "evaluations", "curves", "comparisons", "divergence",
        "reward_models", "overoptimisation",
    ]  # fmt: skip
    assert list(document)[: len(always)] == always
    assert all(
        isinstance(document[key], list) for key in list(document)[5:]
    )  # what a recipe declares follows, as lists
    assert document["schema"] == "1.1"
    assert all(set(row) == STAGE for row in document["stages"]) and len(document["stages"]) == 7
    assert all(set(row) == EVALUATION for row in document["evaluations"]) and len(document["evaluations"]) == 63
    assert all(set(row) == COMPARISON for row in document["comparisons"]) and len(document["comparisons"]) == 3 * 10
    assert {row["verdict"] for row in document["comparisons"]} <= {
        "forgot", "retained", "inconclusive", "gained", "lost", "unchanged",
    }  # fmt: skip


def test_numbers_can_be_recomputed_from_the_items(built):
    items = pq.read_table(built[2] / "items.parquet").to_pylist()
    assert {row["stage"] for row in items} == {"base", "sft", "ppo"} and len(items) == 7 * 9 * 200
    assert {row["run"] for row in items} == {json.loads((built[2] / "results.json").read_text())["run_id"]}
    by = {}
    for row in items:
        by.setdefault((row["stage"], row["seed"], row["task"]), {})[row["doc_id"]] = row
    for entry in json.loads((built[2] / "results.json").read_text())["comparisons"]:
        if entry["task"].startswith("group:"):
            continue
        deltas = []
        for seed in (0, 1, 2):
            old = by[entry["reference"], 0 if entry["reference"] == "base" else seed, entry["task"]]
            new = by[entry["new"], seed, entry["task"]]
            if entry["metric"] == "bits_per_byte":
                nats = sum(old[i]["log_likelihood"] - new[i]["log_likelihood"] for i in old)
                deltas.append(nats / math.log(2) / sum(row["bytes"] for row in old.values()))
            else:
                deltas.append(np.mean([new[i]["score"] - old[i]["score"] for i in old]))
        assert entry["delta"] == pytest.approx(np.mean(deltas), abs=1e-12)
        if entry["metric"] == "acc":
            assert entry["n11"] + entry["n10"] + entry["n01"] + entry["n00"] == entry["n"] * entry["n_seeds"]
            assert (entry["n01"] - entry["n10"]) / 600 == pytest.approx(entry["delta"])


def test_the_page_asks_nothing_of_the_network(built):
    page = (built[2] / "report.html").read_text()
    outside = re.sub(r"<script>.*?</script>", "", page, flags=re.S)  # the bundle's own strings name its home page
    assert not re.search(r"(?:src|href|action)\s*=\s*[\"']?(?!data:|#)\w+:", outside)
    assert "@import" not in page and "url(" not in outside
    assert "default-src 'none'" in page


def test_what_models_wrote_is_escaped(built):
    page = (built[2] / "report.html").read_text()
    assert ATTACK not in page and "onerror=&#39;window.attacked" in page
    assert "&lt;script&gt;window.attacked" in page


def test_first_screen_answers_the_question(built):
    report, results, folder, _ = built
    page = (folder / "report.html").read_text()
    text = re.sub(r"<[^>]+>", "", page[page.index("<main>") : page.index("</header>")])
    assert report.question in text
    assert re.search(r"ppo gained [\d.]+ points on the target over sft \([\d.]+ to [\d.]+\) and ", text)
    assert "3 seeds, 7 tasks" in text
    assert results.arms and results.page == folder / "report.html"


def test_every_seed_is_shown(built):
    report, _, folder, _ = built
    page = (folder / "report.html").read_text()
    value = next(m for m in report.models if (m.stage, m.seed) == ("ppo", 2)).tasks["lab_facts"].about["value"]
    assert f"{100 * value:.1f}" in page
    assert page.count("seed 2</span>") >= 2


def test_a_failed_rebuild_leaves_the_old_report(tmp_path):
    a, b = (
        tiny(tmp_path, "base", {"facts": [1, 0, 1, 1]}),
        tiny(tmp_path, "sft", {"facts": [1, 1, 1, 0]}, parent="base"),
    )
    report = write(tmp_path, items=5, models=[a, b], target=[], retained=["facts"], comparison=Comparison())
    build_report(report, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (b.evaluation / "evaluation.json").unlink()
    fresh = replace(b)  # reads its files anew
    with pytest.raises(SuiteError, match="no evaluation"):
        build_report(replace(report, models=[a, fresh]), tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize(
    ("target", "retained"),
    [([], ["facts"]), (["facts"], []), (["facts"], ["lab_texts"]), ([], ["lab_texts", "lab_service"])],
)
def test_few_tasks_and_one_seed_still_make_a_page(tmp_path, target, retained):
    scores = {task: [1, 0, 1, 1] for task in [*target, *retained]}
    a = tiny(tmp_path, "base", scores)
    b = tiny(tmp_path, "sft", {task: [1, 1, 1, 0] for task in scores}, parent="base")
    report = write(tmp_path, items=5, models=[a, b], target=target, retained=retained, comparison=Comparison())
    results = build_report(report, tmp_path / "out")
    assert "this checkpoint, new items; no claim about the method" in results.page.read_text()


def test_a_lone_model_makes_a_page_of_scores(tmp_path):
    report = write(tmp_path, items=5, models=[tiny(tmp_path, "base", {"facts": [1, 0]})], target=[], retained=["facts"])
    results = build_report(replace(report, comparison=Comparison()), tmp_path / "out")
    assert results.arms == () and "50.0" in results.page.read_text()
