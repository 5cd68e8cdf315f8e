"""The stage `evaluate`: one model on all tasks of the recipe, item by item, so that two models can be compared in pairs.

Reads inputs["model"]; writes `items.parquet` (columns: eval/items.py) and `evaluation.json` (one entry a task, and the settings); with
a `divergence:` block also `divergence.parquet` (eval/divergence_rows.py), against the models in inputs["divergence.references.N.model"].
Every model is measured by the same backend in fp32, whatever precision it was trained in; a classifier by its head, on tasks of labels
(eval/classifier_lm.py). Takes seconds to minutes, so a
killed evaluation starts anew.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from typing import Any

import torch

from alignment.core.artifact import Artifact, digest_of
from alignment.core.context import Context
from alignment.core.errors import RecipeError
from alignment.data.chat import require_chat_template
from alignment.models.classifier import is_classifier
from alignment.models.load import load_to_read, load_tokenizer
from eval.catalogue import MeasuredTask, find_tasks, parts_of
from eval.classifiable import require_classifiable
from eval.classifier_lm import ClassifierLM
from eval.config import EvaluateConfig
from eval.divergence import measure
from eval.divergence_inputs import Prepared, prepare
from eval.divergence_rows import by_key, write_rows
from eval.harness import PairedLM, Report, quiet, run_task
from eval.scores import Item, entry_of, items_of, write_items


@quiet()
def run(config: EvaluateConfig, inputs: Mapping[str, Artifact], context: Context) -> dict[str, Any]:
    """Measure the model; returns {task: value}, and the divergences from the references if the recipe asks for them.

    Raises RecipeError, DataError or ModelError for what the user can mend.
    """
    context.progress.update(0, 1, "loading tasks")
    tasks = find_tasks(config, inputs)
    scores = parts_of(tasks)
    prepared = prepare(config, inputs) if config.divergence else None
    context.progress.update(0, 1, "loading model")
    lm = _load_model(config, inputs["model"], tasks)
    template_digest = digest_of(lm.tokenizer.chat_template)
    settings = _settings(config, lm)
    entries, items = {}, []
    for number, (name, parts) in enumerate(scores.items(), 1):
        began = time.monotonic()
        report = partial(context.progress.update, phase=f"{name} ({number} of {len(scores)})")
        rows = [row for part in parts for row in _items(part, lm, config, report)]
        entry = entries[name] = entry_of(parts[0], rows, template_digest, settings)
        items += [row | {"stage": config.model.stage, "seed": context.seed} for row in rows]
        context.log.info(_line(parts[0], entry, time.monotonic() - began))
    write_items(items, context.workdir / "items.parquet")
    result = {"tasks": entries, "settings": settings}
    (context.workdir / "evaluation.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    summary = {name: entry["value"] for name, entry in entries.items()}
    return summary | (_divergences(prepared, lm.model, context) if prepared else {})


def _divergences(prepared: Prepared, model: Any, context: Context) -> dict[str, float]:
    """Write `divergence.parquet`; returns nats a sequence by reference, inputs and direction."""
    rows = measure(prepared, model, partial(context.progress.update, phase="divergence"))
    write_rows(rows, context.workdir)
    means = {}
    for key, measured in by_key(rows).items():
        nats, tokens = sum(row["kl"] for row in measured), sum(row["tokens"] for row in measured)
        means[f"kl_{'_'.join(key)}"] = nats / len(measured)
        reference, kind, direction = key
        size = f"{nats / len(measured):.4f} nats a sequence, {nats / tokens:.5f} a token, {len(measured)} sequences"
        context.log.info(f"{direction} KL from {reference} on {kind} inputs: {size}")
    return means


def _items(measured: MeasuredTask, lm: PairedLM | ClassifierLM, config: EvaluateConfig, report: Report) -> list[Item]:
    samples = run_task(lm, measured, config.limit, report, config.run_generated_code)
    return items_of(measured, samples, lm)


def _load_model(config: EvaluateConfig, model: Artifact, tasks: list[MeasuredTask]) -> PairedLM | ClassifierLM:
    if is_classifier(model.path):
        require_classifiable(config, config.model.stage or model.path.name)
        return ClassifierLM(model.path, tasks)
    tokenizer = load_tokenizer(model.path)
    if any(measured.chat for measured in tasks):
        require_chat_template(tokenizer)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded: Any = load_to_read(model.path)
    lm = PairedLM(loaded.to(device), tokenizer, config.batch_size, config.sampling_seed)
    for measured in tasks:
        if measured.new_tokens >= lm.max_length:
            raise RecipeError(
                f"evaluation.{measured.role}",
                f"task {measured.name!r}: {measured.new_tokens} new tokens leave no room for a prompt",
                f"fewer than the {lm.max_length} tokens of the model's context",
                "lower max_new_tokens",
            )
    return lm


def _settings(config: EvaluateConfig, lm: PairedLM | ClassifierLM) -> dict[str, Any]:
    return {
        "limit": config.limit,
        "batch_size": config.batch_size,
        "sampling_seed": config.sampling_seed,
        "context_length": lm.context_length,
        "stop_token_ids": lm.stop_ids,
        "lm_eval": version("lm-eval"),
    }


def _line(measured: MeasuredTask, entry: dict[str, Any], seconds: float) -> str:
    cut = f", {entry['truncated']} prompts cut to fit the context" if entry["truncated"] else ""
    cut += f", {left_out} rows left out" if (left_out := measured.metadata.get("left_out")) else ""
    return f"{measured.name}: {measured.metric} {entry['value']:.4f}, {entry['n']} items{cut} ({seconds:.1f} s)"
