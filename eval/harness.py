"""lm-eval's Hugging Face model, made fit for paired comparisons, and one task run through lm-eval.

What differs from `HFLM`, and why:
* Beginning-of-sequence tokens are decided prompt by prompt. HFLM looks at the first prompt of a batch only, so a mixed batch
  gets a doubled BOS. A rendered chat template already holds its special tokens: none are added.
* A text's log-likelihood is that of its own tokens, given one BOS. HFLM also scores the BOS that the tokenizer adds, given a
  BOS: many nats a document on a model that was never trained to emit it.
* Sampling draws from a generator seeded by (sampling seed, task, batch): the same noise for every model, whatever ran before,
  and the caller's random state is left alone.
* Decoding settings that a checkpoint happens to carry (repetition penalty, top-p, ...) are dropped: two checkpoints that
  differ in them would not be comparable. Every end token that the checkpoint or tokenizer names stops an answer.
* Prompts that do not fit the context are remembered (lm-eval cuts them on the left with a log line). A continuation that alone does
  not fit is scored in parts; lm-eval fails on it.
* Logits are held for so many tokens at a time, by the sizes of model and data, never by the memory that happens to be free.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import lm_eval.api.model
import lm_eval.api.task
import lm_eval.models.huggingface
import torch
from lm_eval import utils
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from alignment.core.context import derive_seed
from alignment.models.attached import positions_taken
from alignment.models.load import context_length
from eval.catalogue import MeasuredTask
from eval.classifier_lm import ClassifierLM

Report = Callable[[int, int], None]
_LOGITS_AT_ONCE = 2**28  # numbers in a batch's logits: 1 GiB in fp32, and as much again for their log-softmax
_FEWSHOT_SEED = 1234  # lm-eval's own default, so that few-shot prompts equal those of its command line


_HFLM: Any = HFLM  # lm-eval's decorator hides the type


class PairedLM(_HFLM):
    """An lm-eval model around a loaded causal model. `truncated` collects the prompts that were cut to fit the context.

    context_length: of the model, of which trained positions before the text may take a part: those are the model's own doing, no
    other way of measuring.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int, sampling_seed: int
    ) -> None:
        taken = positions_taken(model)
        limit = context_length(model) if taken else None  # else lm-eval finds it
        super().__init__(
            pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size, max_length=limit
        )
        self.context_length = self.max_length + taken
        self._most_rows, self._sampling_seed = batch_size, sampling_seed
        self._task, self._batch = "", 0
        self.truncated: set[str] = set()
        self.stop_ids = stop_token_ids(model, tokenizer)
        model.generation_config = GenerationConfig(
            eos_token_id=self.stop_ids, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id
        )

    def start(self, task: str, chat: bool) -> None:
        """Get ready for a task: its own stream of sampling seeds, and no BOS in front of a rendered chat template."""
        self._task, self._batch = task, 0
        self.truncated = set()
        self.add_bos_token = False if chat else None

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and attention mask, both [B, T], padded on the left."""
        kept = []
        for string in strings:
            ids = self.tok_encode(string)
            if left_truncate_len is not None and len(ids) > left_truncate_len:
                self.truncated.add(string)
                ids = ids[-left_truncate_len:]
            kept.append(ids)
        width = max(map(len, kept))
        input_ids = torch.full((len(kept), width), int(self.tokenizer.pad_token_id))
        mask = torch.zeros_like(input_ids)
        for row, ids in enumerate(kept):
            input_ids[row, width - len(ids) :] = torch.tensor(ids)
            mask[row, width - len(ids) :] = 1
        return input_ids, mask

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood in nats of each text, given one BOS. Past the context, windows score each token once."""
        windows, owners = [], []
        for owner, request in enumerate(requests):
            pieces = utils.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for piece in pieces:
                windows.append((None, *utils.make_disjoint_window(piece)))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, (log_likelihood, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += log_likelihood
        return totals

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        longest = max((len(context) + len(continuation) for _, context, continuation in requests), default=1)
        for strings, context, continuation in requests:
            if strings is not None and len(context) + len(continuation) > self.max_length + 1:
                self.truncated.add(strings[0])
        per_row = min(longest, self.max_length) * self.model.config.vocab_size
        self.batch_size_per_gpu = max(1, min(self._most_rows, _LOGITS_AT_ONCE // per_row))
        pieces = [piece for request in requests for piece in self._pieces(*request)]
        try:
            scored = iter(super()._loglikelihood_tokens(pieces, disable_tqdm, override_bs))
        finally:
            self.batch_size_per_gpu = self._most_rows
        several = [[next(scored) for _ in self._pieces(*request)] for request in requests]
        return [(sum(score for score, _ in found), all(greedy for _, greedy in found)) for found in several]

    def _pieces(
        self, strings: Any, context: list[int], continuation: list[int]
    ) -> list[tuple[Any, list[int], list[int]]]:
        """A continuation that is longer than the model's context in parts, each after as many tokens as fit before it."""
        if len(continuation) <= self.max_length:
            return [(strings, context, continuation)]
        size = self.max_length // 2
        starts = range(0, len(continuation), size)
        return [(strings, context + continuation[:start], continuation[start : start + size]) for start in starts]

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **options: Any) -> torch.Tensor:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(derive_seed(self._sampling_seed, self._task, str(self._batch)))
            self._batch += 1
            return super()._model_generate(context, max_length, stop, **options)


def stop_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends an answer, by the tokenizer, the model's config or its generation config."""
    generation: Any = model.generation_config
    tokenizer_id: Any = tokenizer.eos_token_id
    ids: set[int] = set()
    for named in (tokenizer_id, model.config.eos_token_id, generation and generation.eos_token_id):
        ids.update(named if isinstance(named, list) else [] if named is None else [named])
    return sorted(ids)


def run_task(
    lm: PairedLM | ClassifierLM,
    measured: MeasuredTask,
    limit: int | None,
    report: Report,
    run_generated_code: bool = False,
) -> list[dict[str, Any]]:
    """lm-eval's sample records of one task, in the order of its documents, for each of its filters.

    Tasks run one at a time, so a task's result does not depend on which others are measured with it. `evaluate` is called
    rather than `simple_evaluate`, which reseeds the global random states and asks the machine for its hardware each time.
    """
    task = measured.task
    lm.start(measured.name, measured.chat)
    task.set_config("num_fewshot", measured.shots)
    task.set_fewshot_seed(_FEWSHOT_SEED)
    with _reporting(report):
        results: Any = evaluate(
            lm,
            {"tasks": {task.task_name: task}},
            limit=measured.limit(limit),
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=measured.chat,
            fewshot_as_multiturn=True,
            confirm_run_unsafe_code=run_generated_code,
        )
    return results["samples"][task.task_name]


class _Bar:
    """Stands in for tqdm inside lm-eval: tells `report` how many requests are done."""

    def __init__(self, report: Report, iterable: Collection[Any] = (), total: int | None = None, **_: Any) -> None:
        self._report, self._iterable = report, iterable
        self._done, self._total = 0, len(iterable) if total is None else total

    def __iter__(self) -> Iterator[Any]:
        for element in self._iterable:
            yield element
            self.update(1)

    def update(self, count: int) -> None:
        self._done += count
        self._report(self._done, self._total)

    def close(self) -> None:
        pass


@contextmanager
def _reporting(report: Report) -> Iterator[None]:
    """Send lm-eval's progress bars to `report` instead of standard error."""
    modules: list[Any] = [lm_eval.api.task, lm_eval.api.model, lm_eval.models.huggingface]
    bars = [module.tqdm for module in modules]
    try:
        for module in modules:
            module.tqdm = partial(_Bar, report)
        yield
    finally:
        for module, bar in zip(modules, bars, strict=True):
            module.tqdm = bar


@contextmanager
def quiet() -> Iterator[None]:
    """Keep lm-eval's remarks out of the log, and the tokenizer's on texts that are then read in windows."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "transformers.tokenization_utils_base")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
