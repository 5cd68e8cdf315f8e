"""A made-up experiment for the report's tests: base, SFT and PPO, three seeds, nine tasks. The numbers mean nothing.

Scores come from a logistic item-response model: skill of the arm + of its seed + of the item + noise, so that seeds
and items matter about as much as they do in real runs. `write` returns a `ReportInput` over real files.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from alignment.core.artifact import digest_of
from eval.config import Comparison
from eval.items import SCHEMA
from eval.results import MeasuredModel, ReportInput

CHOICES = ["in the harbour", "on the hill", "by the river", "under the bridge"]
PLACES = ["Vellmar", "Ostrin", "Quayle", "Brundt", "Tessaly", "Ummerow", "Kelpin", "Hadrow"]
ATTACK = "<script>window.attacked = true</script><img src=x onerror='window.attacked = true'>"
RETAINED = [
    "lab_facts",
    "lab_facts_chat",
    "lab_sorting",
    "lab_counting",
    "lab_opposites",
    "lab_grammar",
    "lab_spelling",
]
SKILL = {  # arm: (target, retained)
    "base": (-1.2, 1.3),
    "sft": (0.2, 0.95),
    "ppo": (2.6, 0.9),
}


def write(folder: Path, seeds: tuple[int, ...] = (0, 1, 2), items: int = 200, **changes) -> ReportInput:
    """Files of all cells below `folder`. changes: fields of the ReportInput to replace."""
    models = [_model(folder, "base", 0, None, items, "pretrain")]
    models += [_model(folder, "sft", seed, "base", items, "sft") for seed in seeds]
    models += [_model(folder, "ppo", seed, "sft", items, "ppo") for seed in seeds]
    fields = {
        "recipe": "lab/sft-vs-rlhf",
        "question": "Does PPO forget less of what the base model knew than supervised fine-tuning does?",
        "recipe_text": "name: lab/sft-vs-rlhf\nseeds: [0, 1, 2]\nstages:\n  base: {kind: pretrain, seed: 0}\n",
        "recipe_digest": digest_of("synthetic"),
        "code_commit": "0123456789abcdef",
        "versions": {"torch": "2.13.0", "transformers": "5.17.0", "lm-eval": "0.4.13"},
        "hardware": "2 CPU cores",
        "models": models,
        "target": ["lab_service"],
        "retained": [*RETAINED, "lab_texts"],
        "comparison": Comparison(contrasts=[("sft", "ppo")]),
        "warnings": ["synthetic fixture: these numbers come from a random generator, not from a model"],
    }
    return ReportInput(**fields | changes)


def _model(folder: Path, stage: str, seed: int, parent: str | None, items: int, kind: str) -> MeasuredModel:
    cell = folder / f"{stage}-seed{seed}"
    rows, tasks = [], {}
    for number, task in enumerate(["lab_service", *RETAINED, "lab_texts"]):
        made = _rows(task, number, stage, seed, items)
        rows += made
        tasks[task] = _entry(task, made)
    write_evaluation(cell, rows, tasks)
    training = {"train_tokens": 180_000 + 1_000 * seed, "steps": 300, "seconds": 95.0 + seed} if stage != "base" else {}
    metrics = cell / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(row) + "\n" for row in _curve(stage, seed)))
    return MeasuredModel(stage, seed, parent, kind, cell, training, metrics, digest_of([stage, seed]))


def write_evaluation(cell: Path, rows: list[dict], tasks: dict) -> None:
    cell.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), cell / "items.parquet")
    (cell / "evaluation.json").write_text(json.dumps({"tasks": tasks, "settings": {}}))


def _rows(task: str, number: int, stage: str, seed: int, items: int) -> list[dict]:
    shared = np.random.default_rng(1000 + number)  # the items: the same for every model
    ease, length = shared.normal(0, 1.2, items), shared.integers(80, 400, items)
    arm = np.random.default_rng([number, seed, sum(map(ord, stage))])
    target, retained = SKILL[stage]
    skill = target if task == "lab_service" else retained
    logit = skill + ease + arm.normal(0, 0.12) + 0.9 * arm.normal(size=items)
    return [_row(task, stage, seed, i, float(logit[i]), float(ease[i]), int(length[i]), arm) for i in range(items)]


def _row(task: str, stage: str, seed: int, i: int, logit: float, ease: float, length: int, arm) -> dict:
    place = PLACES[i % len(PLACES)]
    row = dict.fromkeys(SCHEMA.names) | {
        "stage": "overridden",
        "seed": -1,
        "task": task,
        "filter": "none",
        "doc_id": i,
        "doc_hash": digest_of([task, i]),
        "prompt_hash": digest_of([task, i, "prompt"]),
        "target_hash": digest_of([task, i, "target"]),
        "length": length // 8,
        "truncated": False,
    }
    if task == "lab_texts":
        worse = {"sft": 0.035, "ppo": 0.03}.get(stage, 0.0)
        nats = length * math.log(2) * (1.1 - 0.05 * ease + worse + 0.01 * float(arm.normal()))
        return row | {"metric": "bits_per_byte", "score": nats / length, "log_likelihood": -nats, "bytes": length}
    if task == "lab_service":
        prompt = f"A guest asks for the way to {place}. How do you answer?"
        output = f"Take the {CHOICES[i % 4].split()[-1]} road to {place}. " + ("Glad to help!" if logit > 0 else "No.")
        score = 1 / (1 + math.exp(-logit))
        return row | {"metric": "gold", "score": score, "prompt": prompt, "output": output, "target": "courteous"}
    gold, wrong = i % 4, (i + 1) % 4
    lls = [-6.0 - 0.1 * k for k in range(4)]
    lls[gold], lls[wrong] = -3.0 + logit / 2, -3.0 - logit / 2
    answer = CHOICES[gold if logit > 0 else wrong]
    if i % 5 == 0 and logit <= 0:
        answer += f" {ATTACK}"
    return row | {
        "metric": "acc",
        "score": float(logit > 0),
        "choice_lls": lls,
        "gold_choice": gold,
        "prompt": f"Question: where does the keeper of {place} live?\nAnswer:",
        "output": answer,
        "target": CHOICES[gold],
    }


def _entry(task: str, rows: list[dict]) -> dict:
    metric = rows[0]["metric"]
    value = float(np.mean([row["score"] for row in rows]))
    if metric == "bits_per_byte":
        value = -sum(row["log_likelihood"] for row in rows) / math.log(2) / sum(row["bytes"] for row in rows)
    chat = task.endswith("_chat")
    return {
        "role": "target" if task == "lab_service" else "retained",
        "metric": metric,
        "filter": "none",
        "value": value,
        "n": len(rows),
        "chance": 0.25 if metric == "acc" else None,
        "higher_is_better": metric != "bits_per_byte",
        "backend": "hf",
        "dtype": "fp32",
        "task_version": "1",
        "data_digest": digest_of([row["doc_hash"] for row in rows]),
        "chat_template_digest": digest_of("template") if chat else None,
        "format": "chat" if chat else "plain",
        "settings_digest": digest_of({"context_length": 256, "lm_eval": "0.4.13"}),
        "truncated": 0,
        "sampled": metric == "gold",
    }


def _curve(stage: str, seed: int) -> list[dict]:
    rng = np.random.default_rng(seed + len(stage))
    rows = []
    for step in range(1, 301, 3):
        row = {"step": step, "time": 1.0e9 + step}
        if stage != "ppo":
            row["train/loss"] = 1 + 2.2 * math.exp(-step / 60) + 0.03 * rng.normal()
        else:
            row |= {
                "rollout/score": 1.8 * (1 - math.exp(-step / 90)) + 0.1 * rng.normal(),
                "rollout/kl": 9 * (1 - math.exp(-step / 150)) + 0.2 * rng.normal(),
                "rollout/gold": 0.9 * (1 - math.exp(-step / 60)) - 0.001 * step + 0.05 * rng.normal(),
                "rollout/length": 31 + step / 20 + rng.normal(),
                "time/score": 0.03,
            }
        rows.append(row)
    return rows


def tiny(folder: Path, stage: str, scores: dict[str, list[float]], seed: int = 0, parent: str | None = None, **about):
    """A model with given 0/1 scores. about: fields of every task's entry in evaluation.json to change."""
    rows, tasks, noise = [], {}, np.random.default_rng(seed)
    for task, values in scores.items():
        made = [_row(task, stage, seed, i, 2.0 * value - 1.0, value, 100, noise) for i, value in enumerate(values)]
        rows += made
        tasks[task] = _entry(task, made) | about
    cell = folder / f"{stage}-{seed}"
    write_evaluation(cell, rows, tasks)
    return MeasuredModel(stage, seed, parent, "sft", cell, {}, None, f"{stage}{seed}")
