"""lm-eval tasks made from a recipe's own rows: bits per byte of held-out texts or answers, gold score of the model's answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask

from alignment.core.artifact import Artifact
from alignment.core.errors import DataError, RecipeError
from alignment.data.rows import Row, load_rows, prompt_text
from alignment.data.stream import Reading
from alignment.gold import NAMES, gold_scorer
from eval.config import TextTask

VERSION = 1
BLOCK_BYTES = 2000
_LONG = 4 * BLOCK_BYTES
_ARTICLE = re.compile(r"^ = [^=\n]+ = $", re.MULTILINE)  # WikiText's title lines; its sections have more equal signs


class MessagesTask(ConfigurableTask):
    """Prompts are lists of chat messages: rendered as they stand, where lm-eval knows a single user turn only."""

    def fewshot_context(self, doc: Row, num_fewshot: int, chat_template: Any = None, **_: Any) -> str:  # type: ignore[override]
        return chat_template(doc["prompt"])


def text_task(name: str, task: TextTask, artifact: Artifact | None) -> ConfigurableTask:
    """The lm-eval task of a `tasks:` block. Raises DataError for rows that do not fit it, RecipeError for the block itself."""
    where = f"evaluation.tasks.{name}"
    if task.metric == "bits_per_byte":
        rows = list(Reading(task.data, artifact, f"{where}.data").usable([("text",), ("prompt", "completion")]))
        if task.cluster is not None and "text" in rows[0]:
            what = "cluster is for answers: what texts share is read off them"
            raise RecipeError(f"{where}.cluster", what, "none for a task of texts", "remove it")
        if "text" not in rows[0]:
            return _answers(name, task, rows[: task.limit], f"{where}.data")
        return ConfigurableTask(config=_texts(name, documents([row["text"] for row in rows])[: task.limit]))
    if task.gold not in NAMES:
        raise RecipeError(
            f"{where}.gold", f"no gold scorer {task.gold!r}", f"one of {', '.join(NAMES)}", "name a gold scorer"
        )
    rows = load_rows(task.data, artifact, ("prompt", *([task.cluster] if task.cluster else [])), f"{where}.data")
    rows = rows[: task.limit]
    chat = _are_chats(rows, f"{where}.data")
    kept = ["prompt", *([task.cluster] if task.cluster else [])]
    config = _gold(name, task, [{field: row[field] for field in kept} for row in rows], chat)
    return (MessagesTask if chat else ConfigurableTask)(config=config)


def _are_chats(rows: Sequence[Row], where: str) -> bool:
    """Whether prompts are chat messages. Raises DataError where only some of them are."""
    kinds = {type(row["prompt"]) for row in rows}
    if len(kinds) > 1:
        raise DataError(
            where,
            "some prompts are text, others chat messages",
            "one kind, so that one format is measured",
            "split the rows into two tasks",
        )
    return kinds == {list}


def documents(texts: Sequence[str]) -> list[dict[str, str | None]]:
    """The texts as documents `{"text", "source"}`. A text over 8,000 bytes, such as a whole WikiText file, is cut into blocks.

    Blocks end at the first line end after 2,000 bytes, and at WikiText's title lines; joined, they are the text again. A
    document is what a bootstrap over items draws, so a file must not be one. `source` names the article that blocks share,
    None where a text is not split into articles.
    """
    found: list[dict[str, str | None]] = []
    for number, text in enumerate(texts):
        if len(text.encode()) <= _LONG:
            found.append({"text": text, "source": None})
            continue
        articles = _articles(text)
        for index, article in enumerate(articles):
            source = f"{number}.{index}" if len(articles) > 1 else None
            found += [{"text": block, "source": source} for block in _blocks(article)]
    return found


def _articles(text: str) -> list[str]:
    cuts = [match.start() for match in _ARTICLE.finditer(text)]
    if not cuts:
        return [text]
    cuts[0] = 0  # what stands before the first title belongs to it
    return [text[start:end] for start, end in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def _blocks(text: str) -> list[str]:
    blocks, lines, size = [], [], 0
    for line in text.splitlines(keepends=True):
        lines.append(line)
        size += len(line.encode())
        if size >= BLOCK_BYTES:
            blocks.append("".join(lines))
            lines, size = [], 0
    if lines:  # a short rest, such as a last blank line, joins the block before
        rest = "".join(lines)
        if blocks and size < BLOCK_BYTES // 4:
            blocks[-1] += rest
        else:
            blocks.append(rest)
    return blocks


_BITS = [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}]


def _texts(name: str, docs: list[Row]) -> dict[str, Any]:
    return task_config(name, docs, chat=False, chance=None, cluster="source") | {
        "output_type": "loglikelihood_rolling",
        "doc_to_target": "text",
        "metric_list": _BITS,
    }


def _answers(name: str, task: TextTask, rows: Sequence[Row], where: str) -> ConfigurableTask:
    """Bits per byte of answers, given their prompts. White space at the end of a prompt counts with the answer, since that is how
    lm-eval scores it."""
    chat = _are_chats(rows, where)
    docs = []
    for number, row in enumerate(rows, 1):
        answer = row["completion"]
        said = answer if isinstance(answer, str) else "".join(message["content"] for message in answer)
        if not said:
            raise DataError(where, f"row {number} has an empty answer", "something to measure", "leave such rows out")
        if task.cluster is not None and task.cluster not in row:
            what = f"row {number} has no column {task.cluster!r}, by which the task is clustered"
            raise DataError(where, what, f"one of {', '.join(row)}", "correct `cluster`")
        prompt = row["prompt"] if chat else row["prompt"].rstrip()
        space = "" if chat else row["prompt"][len(prompt) :]
        docs.append(
            {"prompt": prompt, "answer": space + said} | ({task.cluster: row[task.cluster]} if task.cluster else {})
        )
    config = task_config(name, docs, chat, chance=None, cluster=task.cluster) | {
        "output_type": "loglikelihood",
        "doc_to_text": "prompt",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "process_results": lambda doc, results: {"bits_per_byte": (results[0][0], len(doc["answer"].encode()))},
        "metric_list": _BITS,
    }
    return (MessagesTask if chat else ConfigurableTask)(config=config)


def _gold(name: str, task: TextTask, docs: list[Row], chat: bool) -> dict[str, Any]:
    assert task.gold is not None
    score = gold_scorer(task.gold)
    common = task_config(name, docs, chat, chance=None, cluster=task.cluster)
    return common | {
        "metadata": common["metadata"] | {"gold": task.gold, "samples": task.samples},
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "doc_to_target": "",
        "generation_kwargs": decoding(task.temperature, task.max_new_tokens),
        "process_results": lambda doc, results: {"gold": score(prompt_text(doc["prompt"]), results[0])},
        "metric_list": [{"metric": "gold", "aggregation": "mean", "higher_is_better": True}],
    }


def decoding(temperature: float, max_new_tokens: int, stop: Sequence[str] = ()) -> dict[str, Any]:
    """How answers are generated, in lm-eval's words: from the whole distribution, or greedily at temperature 0."""
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    return {"until": list(stop), "max_gen_toks": max_new_tokens} | (sampling if temperature else {"do_sample": False})


def task_config(name: str, docs: list[Row], chat: bool, chance: float | None, cluster: str | None) -> dict[str, Any]:
    """What all tasks from a recipe's own rows have in lm-eval's words."""
    return {
        "task": name,
        "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(docs)},
        "test_split": "test",
        "doc_to_text": "",
        "num_fewshot": 0,
        "metadata": {
            "version": VERSION,
            "format": "chat" if chat else "plain",
            "chance": chance,
            "cluster": cluster,
        },
    }
