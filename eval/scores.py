"""From lm-eval's sample records to `items.parquet` rows and the entry of a task in `evaluation.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from alignment.core.artifact import digest_of
from alignment.core.errors import DataError, RecipeError
from eval.catalogue import MeasuredTask
from eval.classifier_lm import ClassifierLM
from eval.harness import PairedLM
from eval.items import SCHEMA, value_of

Item = dict[str, Any]


def items_of(measured: MeasuredTask, samples: Sequence[dict[str, Any]], lm: PairedLM | ClassifierLM) -> list[Item]:
    """One row per document, of the task's first filter, in the columns of `eval/items.py`.

    `length` counts the tokens of a generated answer, its end token aside; it is empty where nothing is generated.
    Raises RecipeError where the task's metric does not score single items: nothing could be compared in pairs; DataError
    where the documents lack the fields by which the task is clustered.
    """
    items = []
    for sample in samples:
        if sample["filter"] != measured.filter:
            continue
        prompts = [arguments[0] for arguments in sample["arguments"]]
        items.append(
            dict.fromkeys(SCHEMA.names)
            | {
                "task": measured.name,
                "filter": measured.filter,
                "metric": measured.metric,
                **{key: sample[key] for key in ("doc_id", "doc_hash", "prompt_hash", "target_hash")},
                "cluster": _cluster(measured, sample["doc"]),
                "prompt": prompts[0],
                "truncated": any(prompt in lm.truncated for prompt in prompts),
            }
            | _result(measured, sample, lm)
        )
    return items


def _cluster(measured: MeasuredTask, doc: Mapping[str, Any]) -> str | None:
    """What the document shares with others of its source; of a pool's parts, the part."""
    declared = measured.metadata.get("cluster")
    if not declared:
        return measured.task.task_name if measured.pool else None
    fields = [declared] if isinstance(declared, str) else declared
    missing = [name for name in fields if name not in doc]
    if missing:
        what = f"task {measured.name!r} is clustered by {missing[0]!r}, which its documents do not have"
        raise DataError(f"evaluation.{measured.role}", what, f"one of {', '.join(doc)}", "correct `cluster`")
    values = [doc[name] for name in fields]
    return None if any(value in (None, "") for value in values) else "/".join(map(str, values))


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
        "samples": measured.samples,
        "shots": measured.shots,
    } | ({"labels": measured.labels} if measured.labels else {})


def settings_of(measured: MeasuredTask, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the evaluation's settings that this task's scores depend on, with the task's own."""
    # labels are for comparing unlike models, whose contexts differ by nature: what was cut is told beside the score
    names = ["lm_eval"] if measured.labels else ["context_length", "lm_eval"]
    if measured.sampled:  # the noise is drawn batch by batch
        names += ["sampling_seed", "batch_size"]
    own: dict[str, Any] = {}
    if measured.new_tokens:
        names.append("stop_token_ids")
        own = {"decoding": measured.decoding, "gold": measured.metadata.get("gold")}
    if measured.samples > 1:
        own["samples"] = measured.samples
    if (scoring := measured.metadata.get("scoring")) is not None:
        own["scoring"] = scoring
    return {name: settings[name] for name in names} | own


def write_items(items: Sequence[Item], path: Path) -> None:
    pyarrow.parquet.write_table(pa.Table.from_pylist(list(items), schema=SCHEMA), path)


def _result(measured: MeasuredTask, sample: dict[str, Any], lm: PairedLM | ClassifierLM) -> Item:
    value = sample[measured.metric]
    match measured.task.OUTPUT_TYPE:
        case _ if measured.metric == "bits_per_byte":
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
    return {"score": _number(measured, value), "target": str(sample["target"])} | _answers(measured, sample, lm)


def _answers(measured: MeasuredTask, sample: dict[str, Any], lm: PairedLM | ClassifierLM) -> Item:
    """What was generated. A filter may give a list, such as whole programs made of the answers; the first is shown."""
    found = sample["filtered_resps"][0]
    answers = [str(answer) for answer in found] if isinstance(found, list) else [str(found)]
    if not sample["resps"]:
        return {"output": answers[0]}
    lengths = [len(lm.tok_encode(answer, add_special_tokens=False)) for answer in answers]
    several = {"samples": answers} if measured.samples > 1 else {}
    return {"output": answers[0], "length": round(sum(lengths) / len(lengths))} | several


def _choices(measured: MeasuredTask, sample: dict[str, Any]) -> Item:
    """`gold_choice` is empty where the task's own scoring may count several choices as right, or where several are."""
    doc, task = sample["doc"], measured.task
    choices = task.doc_to_choice(doc)
    lls = [float(log_likelihood) for log_likelihood, _ in sample["filtered_resps"][: len(choices)]]
    target = task.doc_to_text(doc) if task.multiple_input else sample["target"]  # choices before a shared ending
    gold = choices.index(target) if isinstance(target, str) and target in choices else target
    single = isinstance(gold, Integral) and measured.scores_choices
    return {
        "choice_lls": lls,
        "gold_choice": int(gold) if single else None,
        "output": str(choices[lls.index(max(lls))]),
        "target": str(choices[int(gold)] if single else target),
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
    """What the task file says, or for accuracy among choices of which one is right, the mean of 1 / number of choices."""
    if (stated := (measured.declared if measured.pool else measured.metadata).get("chance")) is not None:
        return float(stated)
    if measured.metric != "acc" or not measured.scores_choices:
        return None
    return sum(1 / len(item["choice_lls"]) for item in items) / len(items)
