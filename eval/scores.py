"""From lm-eval's sample records to `items.parquet` rows and the entry of a task in `evaluation.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from alignment.core.artifact import digest_of
from alignment.core.errors import RecipeError
from eval.catalogue import MeasuredTask
from eval.harness import PairedLM
from eval.items import SCHEMA

Item = dict[str, Any]


def items_of(measured: MeasuredTask, samples: Sequence[dict[str, Any]], lm: PairedLM) -> list[Item]:
    """One row per document, of the task's first filter, in the columns of `eval/items.py`.

    `length` counts the tokens of a generated answer, its end token aside; it is empty where nothing is generated.
    Raises RecipeError where the task's metric does not score single items: nothing could be compared in pairs.
    """
    items = []
    for sample in samples:
        if sample["filter"] != measured.filter:
            continue
        prompt = sample["arguments"][0][0]
        field = measured.metadata.get("cluster")
        cluster = sample["doc"].get(field) if field else None
        items.append(
            dict.fromkeys(SCHEMA.names)
            | {
                "task": measured.name,
                "filter": measured.filter,
                "metric": measured.metric,
                **{key: sample[key] for key in ("doc_id", "doc_hash", "prompt_hash", "target_hash")},
                "cluster": None if cluster in (None, "") else str(cluster),
                "prompt": prompt,
                "truncated": prompt in lm.truncated,
            }
            | _result(measured, sample, lm)
        )
    return items


def entry_of(
    measured: MeasuredTask, items: Sequence[Item], chat_template_digest: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """A task's entry in `evaluation.json`. `value` follows from the items alone. settings: those of the evaluation."""
    return {
        "role": measured.role,
        "metric": measured.metric,
        "filter": measured.filter,
        "value": value_of(items),
        "n": len(items),
        "chance": _chance(measured, items),
        "higher_is_better": bool(measured.task.higher_is_better()[measured.metric]),
        "backend": "hf",
        "dtype": "fp32",
        "task_version": str(measured.task.VERSION),
        "data_digest": digest_of([item["doc_hash"] for item in items]),
        "chat_template_digest": chat_template_digest if measured.chat else None,
        "format": "chat" if measured.chat else "plain",
        "settings_digest": digest_of(settings_of(measured, settings)),
        "truncated": sum(item["truncated"] for item in items),
        "sampled": measured.sampled,
    }


def settings_of(measured: MeasuredTask, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the evaluation's settings that this task's scores depend on, with the task's own."""
    names = ["context_length", "lm_eval"]
    if measured.sampled:  # the noise is drawn batch by batch
        names += ["sampling_seed", "batch_size"]
    if not measured.new_tokens:
        return {name: settings[name] for name in names}
    own = {"decoding": measured.decoding, "gold": measured.metadata.get("gold")}
    return {name: settings[name] for name in [*names, "stop_token_ids"]} | own


def value_of(items: Sequence[Item]) -> float:
    """Mean score; for bits per byte - sum of log-likelihoods / (ln 2 * sum of bytes), not the mean over documents."""
    if items[0]["metric"] == "bits_per_byte":
        return -math.fsum(i["log_likelihood"] for i in items) / (math.log(2) * sum(i["bytes"] for i in items))
    return math.fsum(item["score"] for item in items) / len(items)


def write_items(items: Sequence[Item], path: Path) -> None:
    pyarrow.parquet.write_table(pa.Table.from_pylist(list(items), schema=SCHEMA), path)


def _result(measured: MeasuredTask, sample: dict[str, Any], lm: PairedLM) -> Item:
    value = sample[measured.metric]
    match measured.task.OUTPUT_TYPE:
        case "loglikelihood_rolling" if measured.metric == "bits_per_byte":
            log_likelihood, size = value
            return {
                "score": -log_likelihood / (math.log(2) * size),
                "log_likelihood": float(log_likelihood),
                "bytes": int(size),
            }
        case "multiple_choice":
            return {"score": _number(measured, value)} | _choices(measured, sample)
        case "loglikelihood":
            log_likelihood, _ = sample["filtered_resps"][0]
            result = {"log_likelihood": float(log_likelihood), "target": str(sample["target"])}
            return {"score": _number(measured, value)} | result
    output = sample["filtered_resps"][0]
    output = output if isinstance(output, str) else str(output)
    length = len(lm.tok_encode(output, add_special_tokens=False)) if sample["resps"] else None
    return {"score": _number(measured, value), "output": output, "target": str(sample["target"]), "length": length}


def _choices(measured: MeasuredTask, sample: dict[str, Any]) -> Item:
    choices = measured.task.doc_to_choice(sample["doc"])
    lls = [float(log_likelihood) for log_likelihood, _ in sample["filtered_resps"][: len(choices)]]
    target = sample["target"]
    gold = choices.index(target) if isinstance(target, str) and target in choices else target
    single = isinstance(gold, int)
    return {
        "choice_lls": lls,
        "gold_choice": gold if single else None,
        "output": str(choices[lls.index(max(lls))]),
        "target": str(choices[gold] if single else target),
    }


def _number(measured: MeasuredTask, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise RecipeError(
            f"evaluation.{measured.role}",
            f"task {measured.name!r}: metric {measured.metric!r} gives no number for a single item",
            "a metric with a score per item, such as acc or exact_match",
            "measure another task, or write a task file with such a metric",
        ) from None


def _chance(measured: MeasuredTask, items: Sequence[Item]) -> float | None:
    """What the task file says, or for accuracy the mean of 1 / number of choices."""
    if (stated := measured.metadata.get("chance")) is not None:
        return float(stated)
    if measured.metric != "acc" or measured.task.OUTPUT_TYPE != "multiple_choice":
        return None
    return sum(1 / len(item["choice_lls"]) for item in items) / len(items)
