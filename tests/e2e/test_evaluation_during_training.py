"""Measuring while training: the same weights as without, and the same values as if training had ended there."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

RECIPE = """
name: test/along
seeds: [0]
stages:
  base: {kind: pretrain, seed: 0, hidden_size: 64, layers: 1, steps: 60, batch_tokens: 512}
  sft: &sft
    kind: sft
    model: {stage: base}
    data: {lab: demonstrations, rows: 64}
    replay: {data: {lab: corpus, rows: 200}, share: 0.25}
    steps: 6
    batch_size: 8
    schedule: constant
    warmup: 0
  sft_short: {<<: *sft, steps: 4}
  sft_lora: {<<: *sft, peft: {r: 2}}
  sft_best: {<<: *sft, learning_rate: 0.3, evaluate: {every: 2, best: retained}}
  reward:
    kind: reward
    model: {stage: base}
    data: {path: PAIRS}
    epochs: 1
  ppo: &ppo
    kind: ppo
    model: {stage: sft}
    reward: {stage: reward}
    prompts: {lab: guests, rows: 64}
    steps: 3
    minibatch_size: 8
    learning_rate: 1.0e-3
    precision: bf16
    checkpoint_every: 1
    rollout: {engine: hf, batch_size: 8, max_new_tokens: 8}
  ppo_adapter: {<<: *ppo, arrangement: shared_base, peft: {r: 2}, critic: {init: policy}, precision: fp32}
evaluation:
  models: [base, sft, sft_short, sft_lora, sft_best, ppo, ppo_adapter]
  target: [lab_service]
  retained: [lab_facts, lab_add]
  limit: 8
comparison:
  frontier:
    base: base
    arms: {sft: [sft], lora: [sft_lora], ppo: [sft, ppo]}
"""
WATCHED = ("sft", "sft_lora", "ppo", "ppo_adapter")


@pytest.fixture(scope="module")
def runs(align, tmp_path_factory):
    """The same recipe in one store, plain and watched."""
    folder = tmp_path_factory.mktemp("along")
    pair = {"prompt": "the soup", "chosen": "is good .", "rejected": "was bad ."}
    (folder / "pairs.jsonl").write_text((json.dumps(pair) + "\n") * 8)
    recipe = yaml.safe_load(RECIPE.replace("PAIRS", str(folder / "pairs.jsonl")))
    for name in ("plain", "watched"):
        if name == "watched":
            for stage in WATCHED:
                recipe["stages"][stage]["evaluate"] = {"every": 2}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe | {"name": f"test/{name}"}, sort_keys=False))
        done = align("run", f"{name}.yaml", cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "runs" / "test"


def cell(runs, name, stage):
    (found,) = (runs / name).glob(f"{stage}-seed0-*")
    return found


@pytest.mark.parametrize("stage", WATCHED)
def test_final_weights_are_bitwise_those_of_an_unwatched_training(runs, stage):
    plain, watched = (load_file(cell(runs, name, stage) / "model.safetensors") for name in ("plain", "watched"))
    assert plain.keys() == watched.keys() and all(torch.equal(plain[key], watched[key]) for key in plain)


def test_a_point_along_training_is_the_model_that_ends_there(runs):
    """sft_short takes the first four of the six steps. It is not watched, so the first of the two runs made it."""
    (ended,) = (runs / "plain").glob("evaluate-sft_short-seed0-*")
    along = cell(runs, "watched", "sft") / "evaluations" / "step-000004"
    assert sorted(folder.name for folder in along.parent.iterdir()) == ["step-000002", "step-000004"]
    left, right = (json.loads((folder / "evaluation.json").read_text())["tasks"] for folder in (ended, along))
    assert left == right


@pytest.mark.parametrize("stage", WATCHED)
def test_what_was_measured_goes_to_the_metrics_and_to_the_report(runs, stage):
    rows = [json.loads(line) for line in (cell(runs, "watched", stage) / "metrics.jsonl").read_text().splitlines()]
    measured = {row["step"]: row for row in rows if "evaluation/lab_facts" in row}
    assert list(measured) == ([2, 4] if stage.startswith("sft") else [2])
    results = json.loads((runs / "watched" / "report" / "results.json").read_text())
    curve = [entry for entry in results["curves"] if entry["stage"] == stage]
    assert [entry["step"] for entry in curve] == list(measured)
    assert curve[0]["values"]["lab_facts"] == pytest.approx(measured[2]["evaluation/lab_facts"])


def test_the_best_of_the_measured_weights_are_what_is_left(runs):
    """At a learning rate that ruins the model the first measurement is as good as any later one, and the first best counts."""
    folder = cell(runs, "plain", "sft_best")
    step = json.loads((folder / "manifest.json").read_text())["summary"]["best_step"]
    (ended,) = (runs / "plain").glob("evaluate-sft_best-seed0-*")
    along = folder / "evaluations" / f"step-{step:06d}" / "evaluation.json"
    left, right = (json.loads(path.read_text())["tasks"] for path in (ended / "evaluation.json", along))
    assert left == right
    means = {}
    for path in sorted(folder.glob("evaluations/*/evaluation.json")):
        tasks = json.loads(path.read_text())["tasks"]
        means[int(path.parent.name[5:])] = tasks["lab_facts"]["value"] + tasks["lab_add"]["value"]
    assert sorted(means) == [2, 4, 6] and step == max(means, key=lambda place: (means[place], -place))


def test_the_frontier_is_in_the_results_of_both(runs):
    """Untrained models of so few steps gain nothing: what matters is that every path is there, with its points along training."""
    results = json.loads((runs / "watched" / "report" / "results.json").read_text())
    points = [(p["arm"], p["stage"], p["step"]) for p in results["frontier"][0]["points"]]
    assert [point for point in points if point[0] == "ppo"] == [
        ("ppo", "base", None), ("ppo", "sft", 2), ("ppo", "sft", 4), ("ppo", "sft", None), ("ppo", "ppo", 2), ("ppo", "ppo", None),
    ]  # fmt: skip
    assert len(results["frontier"][0]["matched"]) == 2
