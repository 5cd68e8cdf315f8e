"""Results of lm-eval's own command line, imported as if the stage `evaluate` had written them: so that they can be compared.

`lm_eval --output_path OUT --log_samples` (0.4.13) leaves `results_<date>.json` and, for each task, `samples_<task>_<date>.jsonl`.
What is imported is checked against what the results file counts, hashes and averages; anything else is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from alignment.core.artifact import digest_of
from alignment.core.errors import DataError, SuiteError
from eval.items import SCHEMA, value_of
from eval.lm_eval_records import Results, Sample

PREFERRED = ("acc", "exact_match", "bits_per_byte")
_OF_CHOICES = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")
_DATED = re.compile(r"(?P<stem>.+)_(?P<date>\d{4}-\d\d-\d\dT[\d.-]+)\.json")
_AGAIN = "run lm_eval again with --log_samples"

Item = dict[str, Any]


@dataclass(frozen=True)
class Imported:
    """What one folder of logs holds. groups: lm-eval's groups with their tasks. context: tokens that the model could read.
    notes: what the reader of a comparison should know."""

    model: str
    groups: Mapping[str, tuple[str, ...]]
    context: int | None
    notes: tuple[str, ...]


class _NotPerItem(Exception):
    """The metric has no number for a single item."""


def results_files(path: Path) -> list[Path]:
    """lm-eval's results files below a folder, or the named one; none for anything else."""
    candidates = [path] if path.is_file() else path.rglob("*.json") if path.is_dir() else []
    return sorted(file for file in candidates if _DATED.fullmatch(file.name))


def import_logs(path: Path, folder: Path, metric: str | None = None, tasks: Collection[str] = ()) -> Imported:
    """Write `items.parquet` and `evaluation.json` of the logs at `path` into `folder`.

    Several results files are one model's tasks, measured in turn. metric: judge by this one where a task has it, instead of
    the first of acc, exact_match and bits per byte that it has, else its first. tasks: only these; none = all.
    Raises DataError for a file that is malformed, cut short or does not belong; SuiteError where nothing can be compared.
    """
    runs = [(file, _read_results(file)) for file in results_files(path)]
    if not runs:
        raise DataError(str(path), "holds no results of lm-eval", "results_<date>.json", "name lm_eval's --output_path")
    models = sorted({run.model_name for _, run in runs})
    if len(models) > 1:
        raise DataError(
            str(path), f"holds results of {len(models)} models: {', '.join(models)}", "one", "name one folder"
        )
    entries: dict[str, dict[str, Any]] = {}
    items: list[Item] = []
    notes: list[str] = []
    for file, run in runs:
        for task in [task for task in run.n_samples if not tasks or task in tasks]:
            if task in entries:
                raise DataError(
                    str(path), f"holds task {task} twice", "each task once", f"name one file, such as {file}"
                )
            try:
                entries[task], made = _task(file, run, task, metric)
                items += made
            except _NotPerItem as error:
                notes.append(f"{task} is left out: {error} has no number for a single item")
    if not entries:
        what, expected = "holds nothing that can be compared", "a task with a score per item"
        raise SuiteError(str(path), what, expected, "; ".join(notes) or "name other tasks")
    _require_metric(path, metric, entries)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(items, schema=SCHEMA), folder / "items.parquet")
    (folder / "evaluation.json").write_text(json.dumps({"tasks": entries, "settings": {}}, ensure_ascii=False))
    return Imported(models[0], _groups([run for _, run in runs]), runs[0][1].max_length, tuple(notes))


def _task(file: Path, run: Results, task: str, wanted: str | None) -> tuple[dict[str, Any], list[Item]]:
    """The task's entry in `evaluation.json` and its items."""
    samples = _read_samples(file, run, task)
    known = samples[0].metrics
    metric = next((name for name in (wanted, *PREFERRED) if name in known), known[0])
    try:
        items = [_item(sample, task, metric, run) for sample in samples]
    except _NotPerItem:
        raise _NotPerItem(metric) from None
    if metric == "acc":
        _mark_gold(items, samples)
    entry = _entry(run, task, metric, items, samples)
    _require_mean(file, run, task, entry)
    return entry, items


def _read_results(file: Path) -> Results:
    try:
        return Results.model_validate_json(file.read_bytes())
    except ValidationError as error:
        _malformed(str(file), error, "a results file of lm-eval 0.4.13")


def _read_samples(file: Path, run: Results, task: str) -> list[Sample]:
    """The task's records under its first filter, checked to be all that the run counted and hashed."""
    match = _DATED.fullmatch(file.name)
    assert match is not None
    path = file.with_name(f"samples_{task}_{match['date']}.jsonl")
    if not path.is_file():
        raise DataError(str(path), "does not exist: the run kept no samples", "one file per task", _AGAIN)
    samples = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if line.strip():
            try:
                samples.append(Sample.model_validate_json(line))
            except ValidationError as error:
                _malformed(f"{path}, line {number}", error, "a sample record of lm-eval 0.4.13")
    kept = [sample for sample in samples if sample.filter == samples[0].filter]
    if len(kept) != run.n_samples[task].effective or not kept:
        what = f"holds {len(kept)} documents, its results file counts {run.n_samples[task].effective}"
        raise DataError(str(path), what, "all documents of the run", f"copy the file again, or {_AGAIN}")
    hashes = "".join(sample.doc_hash + sample.prompt_hash + sample.target_hash for sample in samples)
    if task in run.task_hashes and run.task_hashes[task] != hashlib.sha256(hashes.encode()).hexdigest():
        what = "is not the file that its results file speaks of: their hashes differ"
        raise DataError(str(path), what, "samples and results of one run, unchanged", f"copy both again, or {_AGAIN}")
    return kept


def _malformed(where: str, error: ValidationError, expected: str) -> NoReturn:
    problem = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    what = f"{field}: {message}" if field else message
    raise DataError(where, what[0].lower() + what[1:], expected, f"copy the file again, or {_AGAIN}") from None


def _item(sample: Sample, task: str, metric: str, run: Results) -> Item:
    """A row in the columns of eval/items.py."""
    config = run.configs[task]
    cluster = config.metadata.get("cluster")
    source = sample.doc.get(cluster) if isinstance(sample.doc, dict) and isinstance(cluster, str) else None
    item = dict.fromkeys(SCHEMA.names) | {
        "task": task,
        "filter": sample.filter,
        "metric": metric,
        "doc_id": sample.doc_id,
        "doc_hash": sample.doc_hash,
        "prompt_hash": sample.prompt_hash,
        "target_hash": sample.target_hash,
        "cluster": None if source in (None, "") else str(source),
        "prompt": str(sample.requests[0][0]),
        "target": sample.target,
    }
    value = sample.value(metric)
    if metric == "bits_per_byte":
        log_likelihood, size = _log_likelihood_and_bytes(value)
        score = -log_likelihood / (math.log(2) * size)
        return item | {"score": score, "log_likelihood": log_likelihood, "bytes": size}
    item["score"] = _number(value)
    if config.output_type == "multiple_choice":
        return item | _choices(sample)
    if config.output_type == "loglikelihood":
        return item | {"log_likelihood": _log_likelihoods(sample)[0]}
    answer = sample.filtered_resps[0]
    return item | {"output": answer if isinstance(answer, str) else str(answer)}


def _choices(sample: Sample) -> Item:
    lls = _log_likelihoods(sample)[: sample.choices]
    best = lls.index(max(lls)) if all(map(math.isfinite, lls)) else None
    return {"choice_lls": lls, "output": None if best is None else str(sample.requests[best][-1]).strip()}


def _mark_gold(items: Sequence[Item], samples: Sequence[Sample]) -> None:
    """Which choice was right. The log says only its number or its text, both as a string: what gives every item its acc is
    believed, else nothing is."""
    for read in (_by_number, _by_text):
        golds = [read(sample) for sample in samples]
        if all(_explains(item, gold) for item, gold in zip(items, golds, strict=True)):
            for item, gold, sample in zip(items, golds, samples, strict=True):
                assert gold is not None
                item |= {"gold_choice": gold, "target": str(sample.requests[gold][-1]).strip()}
            return


def _explains(item: Item, gold: int | None) -> bool:
    lls = item["choice_lls"]
    if not lls or gold is None or gold >= len(lls) or not all(map(math.isfinite, lls)):
        return False
    return (lls.index(max(lls)) == gold) == bool(item["score"])


def _by_number(sample: Sample) -> int | None:
    return int(sample.target) if re.fullmatch(r"[0-9]{1,4}", sample.target) else None


def _by_text(sample: Sample) -> int | None:
    texts = [str(request[-1]).strip() for request in sample.requests[: sample.choices]]
    return texts.index(sample.target.strip()) if sample.target.strip() in texts else None


def _entry(run: Results, task: str, metric: str, items: Sequence[Item], samples: Sequence[Sample]) -> dict[str, Any]:
    """As in `evaluation.json`. The settings stand as they are, so that a refusal can say what differs."""
    config = run.configs[task]
    chance = config.metadata.get("chance")
    if not isinstance(chance, int | float):
        guessed = config.output_type == "multiple_choice" and metric in _OF_CHOICES
        chance = sum(1 / sample.choices for sample in samples) / len(samples) if guessed else None
    higher = run.higher_is_better.get(task, {}).get(metric)
    return {
        "role": "target",  # nobody said what was to be kept: differences are told both ways
        "metric": metric,
        "filter": items[0]["filter"],
        "value": value_of(items),
        "n": len(items),
        "chance": chance,
        "higher_is_better": higher is None or higher,
        "backend": f"lm-eval {run.config.model}",
        "dtype": run.config.dtype,
        "task_version": str(run.versions.get(task)),
        "data_digest": digest_of([item["doc_hash"] for item in items]),
        "chat_template_digest": run.chat_template_sha,
        "format": "chat" if run.chat_template_sha else "plain",
        "settings_digest": ", ".join(f"{name} {value}" for name, value in run.settings(task).items()),
        "truncated": 0,  # the logs do not tell
        "sampled": bool(config.generation_kwargs.get("do_sample")),
    }


def _groups(runs: Sequence[Results]) -> dict[str, tuple[str, ...]]:
    """lm-eval's groups, groups within groups unfolded to their tasks."""
    members = {name: subtasks for run in runs for name, subtasks in run.group_subtasks.items() if subtasks}

    def leaves(name: str, above: tuple[str, ...] = ()) -> list[str]:
        if name not in members or name in above:
            return [name]
        return [leaf for member in members[name] for leaf in leaves(member, (*above, name))]

    return {name: tuple(dict.fromkeys(leaves(name))) for name in members}


def _require_mean(file: Path, run: Results, task: str, entry: Mapping[str, Any]) -> None:
    """The items' mean is what lm-eval reports. It is not for a metric such as perplexity: comparing items would mislead."""
    reported = run.results.get(task, {}).get(f"{entry['metric']},{entry['filter']}")
    if not isinstance(reported, int | float):
        return
    if not math.isclose(reported, entry["value"], rel_tol=1e-9, abs_tol=1e-12):
        what = (
            f"task {task}: its items give {entry['metric']} {entry['value']:.6g}, the results file says {reported:.6g}"
        )
        expected = "a metric that is the mean over items, and samples as lm_eval wrote them"
        raise DataError(str(file), what, expected, f"choose another metric (--metric), or {_AGAIN}")


def _require_metric(path: Path, metric: str | None, entries: Mapping[str, Mapping[str, Any]]) -> None:
    if metric is not None and all(entry["metric"] != metric for entry in entries.values()):
        used = ", ".join(sorted({entry["metric"] for entry in entries.values()}))
        raise SuiteError(
            f"--metric {metric}", f"no task of {path} has it", f"for example {used}", "name another metric"
        )


def _log_likelihoods(sample: Sample) -> list[float]:
    """Of every request; logged as [["-1.5", "False"], ...]."""
    if not all(isinstance(response, list) and response for response in sample.filtered_resps):
        raise _NotPerItem
    return [_number(response[0]) for response in sample.filtered_resps]


def _log_likelihood_and_bytes(value: Any) -> tuple[float, int]:
    if not isinstance(value, list) or len(value) != 2 or not 0 < _number(value[1]) < 2**53:
        raise _NotPerItem
    return _number(value[0]), int(_number(value[1]))


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise _NotPerItem from None
