"""Texts cut into openings and continuations: prompts for PPO and demonstrations for SFT from plain stories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.core.errors import DataError
from alignment.data.rows import Row, load_rows, write_rows
from alignment.data.stream import SPLITS, split_of
from alignment.gold import gold_scorer
from alignment.models.load import load_tokenizer
from reward.config import ExcerptsConfig


def run(config: ExcerptsConfig, inputs: Mapping[str, Artifact], context: Context) -> dict[str, Any]:
    tokenizer = load_tokenizer(inputs["model"].path)
    texts = [row["text"] for row in load_rows(config.data, inputs.get("data"), ("text",), "data")]
    gold = gold_scorer(config.gold) if config.gold else None
    splits: dict[str, list[Row]] = {name: [] for name in SPLITS}
    counts = {"texts": len(texts), "dropped_unfaithful": 0, "dropped_short": 0, "dropped_below": 0}
    for number, text in enumerate(texts, 1):
        rows = list(_windows(config, tokenizer, text, counts))
        for row in rows:
            row["source"] = f"text {number}"  # windows of one text are no independent items
            if gold is not None:
                row["gold"] = gold(row["prompt"], row["completion"])
            if config.keep_above is not None and row["gold"] <= config.keep_above:
                counts["dropped_below"] += 1
            else:
                splits[split_of(text)].append(row)
        context.progress.update(number, len(texts), "cutting")
    _require_rows(splits, counts)
    for name, rows in splits.items():
        write_rows(rows, context.workdir / f"{name}.jsonl")
    kept = [row["gold"] for rows in splits.values() for row in rows if "gold" in row]
    mean_gold = {"mean_gold": sum(kept) / len(kept)} if kept else {}
    return {name: len(rows) for name, rows in splits.items()} | counts | mean_gold


def _windows(config: ExcerptsConfig, tokenizer: Any, text: str, counts: dict[str, int]) -> Iterator[Row]:
    """The rows of one text. A window in the middle of a text may begin a few tokens later, where a word begins."""
    special = tokenizer("")["input_ids"]
    ids = tokenizer(text, verbose=False)["input_ids"][len(special) :]
    width = config.opening_tokens + config.continuation_tokens
    counts["dropped_short"] += len(ids) < width
    start, shifts = 0, 1 if config.windows == "first" else config.opening_tokens
    while start + width <= len(ids):
        begins = range(start, min(start + shifts, len(ids) - width + 1))
        rows = ((begin, _faithful(tokenizer, special, ids[begin : begin + width], config)) for begin in begins)
        begin, row = next(((begin, row) for begin, row in rows if row is not None), (start, None))
        if row is not None:
            yield row
        counts["dropped_unfaithful"] += row is None
        if config.windows == "first":
            return
        start = begin + width


def _faithful(tokenizer: Any, special: list[int], window: list[int], config: ExcerptsConfig) -> Row | None:
    """The window as text, if opening, and opening with continuation, are read as the same token ids again: otherwise
    training would see other tokens than sampling."""
    prompt = tokenizer.decode(window[: config.opening_tokens])
    whole = tokenizer.decode(window)
    if not whole.startswith(prompt) or tokenizer(whole)["input_ids"] != special + window:
        return None
    if tokenizer(prompt)["input_ids"] != special + window[: config.opening_tokens]:
        return None
    return {"prompt": prompt, "completion": whole[len(prompt) :], "finished": False}


def _require_rows(splits: Mapping[str, list[Row]], counts: Mapping[str, int]) -> None:
    if not splits["train"]:
        raise DataError(
            "data",
            "no training row is left: " + ", ".join(f"{value} {name}" for name, value in counts.items()),
            "texts longer than opening and continuation, some above keep_above",
            "shorten the windows or lower keep_above",
        )
