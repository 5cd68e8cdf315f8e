"""A classifier as lm-eval sees a language model: the log-likelihood of a choice is its head's log-probability of that label.

lm-eval asks for log p(choice | prompt) of each document; the answer here comes from the document's `text` instead, which is what
the classifier was trained to read. Items, prompts and hashes stay those of the task, so a classifier and an instruction-tuned
model are compared in pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from lm_eval.api.model import LM

from alignment.core.errors import ModelError
from alignment.models.classifier import encode_texts, label_logprobs, labels_of, load_classifier
from alignment.models.load import load_tokenizer, token_limit
from eval.catalogue import MeasuredTask


class ClassifierLM(LM):
    """Measures a classifier's folder on `tasks`. `truncated` collects the prompts whose text was cut, at its end, to fit.

    Raises ModelError where its labels are not a task's. Which tasks there may be: `eval/classifiable.py`.
    """

    def __init__(self, path: Path, tasks: Sequence[MeasuredTask]) -> None:
        super().__init__()
        self.path = path
        self.tokenizer = load_tokenizer(path, generates=False)
        self.model: Any = load_classifier(path).to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]
        self.max_length = self.context_length = token_limit(self.model, self.tokenizer, None)
        self.stop_ids: list[int] = []
        self.truncated: set[str] = set()
        self._number = {label: number for number, label in enumerate(labels_of(self.model))}
        for measured in tasks:
            if set(measured.labels) != set(self._number):
                what = f"its labels are {', '.join(self._number)}, those of task {measured.name!r} {', '.join(measured.labels)}"
                raise ModelError(
                    str(path),
                    what,
                    "the same names",
                    "correct the task's `labels`, or those of the rows (numbers are named by `values`)",
                )

    def start(self, task: str, chat: bool) -> None:
        """Get ready for a task."""
        self.truncated = set()

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For each choice of each document the label's log-probability, and whether it is the likeliest label."""
        texts = list(dict.fromkeys(request.doc["text"] for request in requests))
        ids = encode_texts(self.tokenizer, texts, self.max_length, "truncate", "evaluation")
        pad: Any = self.tokenizer.pad_token_id
        logprobs = dict(zip(texts, label_logprobs(self.model, ids, pad), strict=True))
        cut = {text for text in texts if len(self.tok_encode(text)) > self.max_length}
        self.truncated |= {request.args[0] for request in requests if request.doc["text"] in cut}
        answers = []
        for request in requests:
            row = logprobs[request.doc["text"]]
            number = self._number[request.doc["choices"][request.idx]]
            answers.append((row[number].item(), number == int(row.argmax())))
        return answers

    def tok_encode(self, text: str, **options: Any) -> list[int]:
        return self.tokenizer.encode(text, **options)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> NoReturn:
        self._refuse("has no likelihood of texts")

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> NoReturn:
        self._refuse("says nothing")

    def _refuse(self, what: str) -> NoReturn:
        """What lm-eval asks every model for, and `eval/classifiable.py` keeps from classifiers before a run begins."""
        raise ModelError(str(self.path), f"a classifier {what}", "a task with `labels`", "measure it on other tasks")
