"""The shipped recipe on real files and a real model, and its scores against lm-eval's own computation of the same items."""

import json
import os
from pathlib import Path

import pytest

from alignment.core.artifact import Artifact
from alignment.core.config import ModelRef
from alignment.core.context import Context
from eval import stage
from eval.config import EvaluateConfig
from recipes.check import check_recipe
from recipes.schema import load_recipe

ASSETS = os.environ.get("ALIGN_ASSETS")
pytestmark = pytest.mark.skipif(not ASSETS, reason="needs the model and the benchmark files: set ALIGN_ASSETS")
FILES = {
    "arc_easy_local": "arc_easy",
    "piqa_local": "piqa",
    "lambada_local": "lambada_openai",
    "blimp_local": "blimp_200_per_paradigm",
}
LIMIT = 24
# The tasks as lm-eval words them, reading the same files.
ACC = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
HARNESS = {
    "arc_easy_local": {
        "output_type": "multiple_choice", "doc_to_text": "{{query}}\nAnswer:", "doc_to_choice": "choices", "doc_to_target": "gold",
    },
    "piqa_local": {
        "output_type": "multiple_choice", "doc_to_text": "{{query}}Answer:", "doc_to_choice": "choices", "doc_to_target": "gold",
    },
    "lambada_local": {"output_type": "loglikelihood", "doc_to_text": "{{context}}", "doc_to_target": "{{' '+continuation}}"},
    "blimp_local": {
        "output_type": "multiple_choice", "doc_to_text": "", "doc_to_choice": "{{[sentence_good, sentence_bad]}}", "doc_to_target": 0,
        "target_delimiter": "",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """evaluation.json and items of the recipe's tasks, the first 60 items of each."""
    recipe, _ = load_recipe("stories/benchmarks")
    folder = tmp_path_factory.mktemp("ours")
    tasks = {
        name: recipe.evaluation.tasks[name].model_copy(update={"limit": LIMIT, "per_cluster": None}) for name in FILES
    }
    config = EvaluateConfig(model=ModelRef(path="x"), retained=list(tasks), tasks=tasks)
    model = Artifact("model", "x", Path(ASSETS, "models", "stories260K"))
    stage.run(config, {"model": model}, Context.at(folder))
    import pyarrow.parquet

    items = pyarrow.parquet.read_table(folder / "items.parquet").to_pylist()
    return json.loads((folder / "evaluation.json").read_text())["tasks"], items


@pytest.fixture(scope="module")
def theirs():
    """lm-eval's results and samples, by its own model class and evaluator."""
    import datasets
    from lm_eval import simple_evaluate
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM

    def rows(name):
        lines = Path(ASSETS, "data", "benchmarks", f"{FILES[name]}.jsonl").read_text().splitlines()[:LIMIT]
        return datasets.Dataset.from_list([json.loads(line) for line in lines])

    def task(name):
        data = rows(name)
        common = {"task": name, "custom_dataset": lambda **_: {"test": data}, "test_split": "test", "metric_list": ACC}
        return ConfigurableTask(config=common | {"num_fewshot": 0} | HARNESS[name])

    model = HFLM(pretrained=str(Path(ASSETS, "models", "stories260K")), device="cpu", dtype="float32", batch_size=16)
    return simple_evaluate(model=model, tasks=[task(name) for name in FILES], bootstrap_iters=0, log_samples=True)


@pytest.mark.parametrize("name", FILES)
def test_scores_equal_lm_eval_s_own(ours, theirs, name):
    entries, items = ours
    assert entries[name]["value"] == pytest.approx(theirs["results"][name]["acc,none"], abs=1e-12)
    samples = theirs["samples"][name]
    mine = [item for item in items if item["task"] == name]
    assert len(mine) == len(samples) == LIMIT
    for item, sample in zip(mine, samples, strict=True):
        assert item["score"] == sample["acc"]
        assert item["prompt_hash"] == sample["prompt_hash"]
        lls = item["choice_lls"] or [item["log_likelihood"]]
        assert lls == pytest.approx([float(ll) for ll, _ in sample["filtered_resps"]], abs=2e-3)


def test_chance_and_clusters_are_those_of_the_benchmarks(ours):
    entries, items = ours
    assert entries["arc_easy_local"]["chance"] == pytest.approx(0.25, abs=0.01)  # a few questions have 3 or 5 choices
    assert [entries[name]["chance"] for name in ("piqa_local", "blimp_local", "lambada_local")] == [0.5, 0.5, 0.0]
    assert {item["cluster"] for item in items if item["task"] == "blimp_local"} == {"adjunct_island"}


def test_the_shipped_recipe_passes_its_check():
    recipe, _ = load_recipe("stories/benchmarks")
    rows = {data.where: data.rows for data in check_recipe(recipe)}
    assert rows["evaluation.tasks.blimp_local.data"] == 13_399  # one pair holds the same sentence twice
    assert rows["evaluation.tasks.arc_easy_local.data"] == 2376


@pytest.mark.slow
def test_the_shipped_recipe_runs_to_its_report(tmp_path, align):
    small = [f"--set=evaluation.tasks.{name}.limit=40" for name in FILES]
    done = align("run", "stories/benchmarks", "--store", "runs", "--set=stages.sft.steps=3", *small, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "runs" / "stories" / "benchmarks" / "report" / "results.json").read_text())
    rows = {row["task"]: row for row in results["comparisons"]}
    assert set(rows) == {"stories", *FILES, "group:retained"}
    assert {entry["task"] for entry in results["quality"]} == {"arc_easy_local", "piqa_local", "blimp_local"}
