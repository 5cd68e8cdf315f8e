"""How far a model has moved from its references: KL on inputs of the new task and of the old ones.

For prompts, answers y are sampled at temperature 1 from the whole distribution, up to an end token or `max_new_tokens`:

    forward, y ~ reference:  sum over positions t of  sum_v p_reference(v | y_<t) log(p_reference / p_new)
    reverse, y ~ new:        sum over positions t of  sum_v p_new(v | y_<t) log(p_new / p_reference)

The inner sum runs over the whole vocabulary, so an answer's sum has the same mean as the log-ratio of its tokens, the divergence
of whole answers, with less noise. On given texts y is the text, every token but the first counts, and only "forward" is measured.
Forward KL on prompts of the new task is the published predictor of forgetting (arXiv 2509.04259).

All models answer with the same seeds. At most two models are in memory, in fp32, and logits exist for a few positions at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from alignment.core.errors import SuiteError
from alignment.generation.open import open_engine
from alignment.models.encoding import length_batches
from alignment.models.heads import head_is_plain
from alignment.models.load import load_to_read
from eval.config import InputKind
from eval.divergence_inputs import BLOCK, Inputs, Prepared
from eval.divergence_rows import Row
from eval.kl_maths import position_kl_by_parts, sequence_sums

Report = Callable[[int, int], None]
Direction = Literal["forward", "reverse"]
_TOKENS_AT_ONCE = 1 << 13  # of a batch, padding included: bounds what a forward pass holds
_LOGITS_AT_ONCE = 1 << 28  # where logits only come for a whole batch: 1 GiB in fp32


class Span(NamedTuple):
    """Token ids; those from index `first` on (1 or more) are predicted and counted."""

    ids: list[int]
    first: int


Answers = Mapping[str, Sequence[Span]]  # by kind of input


def measure(prepared: Prepared, model: Any, report: Report) -> list[Row]:
    """Rows of `divergence.parquet`: the model against every reference. report: called with steps done and their number.

    Raises SuiteError where a divergence is not a finite number.
    """
    new, rows, total = Reader(model), [], 1 + len(prepared.references)
    report(0, total)
    own = answers_of(prepared.model, prepared)
    for number, (name, folder) in enumerate(prepared.references.items(), 1):
        report(number, total)
        rows += _against(name, folder, new, own, prepared)
    report(total, total)
    return rows


def answers_of(folder: Path, prepared: Prepared) -> Answers:
    """Prompts with answers of that model, and the given texts as they are."""
    found = {kind: [Span(ids, 1) for ids in inputs.ids] for kind, inputs in prepared.inputs.items() if inputs.given}
    prompts = {kind: inputs.ids for kind, inputs in prepared.inputs.items() if not inputs.given}
    if not prompts:
        return found
    engine = open_engine(
        "hf",
        folder,
        max_prompt_tokens=max(len(ids) for some in prompts.values() for ids in some),
        max_new_tokens=prepared.sampling.max_new_tokens,
        batch_size=prepared.batch_size,
    )
    with closing(engine):
        for kind, some in prompts.items():
            answers = engine.generate(some, prepared.sampling)
            found[kind] = [Span(a.prompt_ids + a.response_ids, len(a.prompt_ids)) for a in answers]
    return found


def _against(name: str, folder: Path, new: Reader, own: Answers, prepared: Prepared) -> list[Row]:
    """Both directions on all inputs. The reference is loaded when its engine, which holds it too, is gone."""
    theirs = answers_of(folder, prepared)
    model: Any = load_to_read(folder)
    reference, rows = Reader(model.to(new.device)), []
    for kind, inputs in prepared.inputs.items():
        sums = sequence_kl(theirs[kind], reference, new, prepared.batch_size)
        rows += _rows(name, kind, "forward", inputs, theirs[kind], sums)
        if not inputs.given:
            sums = sequence_kl(own[kind], new, reference, prepared.batch_size)
            rows += _rows(name, kind, "reverse", inputs, own[kind], sums)
    return rows


def _rows(
    name: str, kind: InputKind, direction: Direction, inputs: Inputs, spans: Sequence[Span], sums: Sequence[float]
) -> list[Row]:
    if not torch.tensor(sums).isfinite().all():
        what = f"the {direction} KL from {name} is not a finite number"
        remedy = "see whether its training diverged (NaN weights), and leave the model out of the evaluation"
        raise SuiteError(f"{BLOCK}.{kind}", what, "finite logits of both models", remedy)
    measured = {"reference": name, "inputs": kind, "direction": direction}
    columns = zip(inputs.doc_ids, inputs.doc_hashes, sums, spans, strict=True)
    return [
        measured | {"doc_id": number, "doc_hash": digest, "kl": kl, "tokens": len(span.ids) - span.first}
        for number, digest, kl, span in columns
    ]


class Reader:
    """A model as the source of next-token logits.

    `plain`: they are the output head times the last hidden state and nothing more (some models scale or cap them). Then a batch is
    held as hidden states, and the head is applied to a few positions at a time.
    """

    def __init__(self, model: Any) -> None:
        self.model: Any = model.eval()
        self.vocabulary: int = model.config.get_text_config().vocab_size
        self.plain = head_is_plain(self.model)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def states(self, ids: Tensor, mask: Tensor, wanted: Tensor) -> Tensor:
        """What `logits` reads, at the positions wanted[B, T]: [R, H], or [R, V] where the head is not plain."""
        source = self.model.base_model if self.plain else self.model
        output = source(input_ids=ids, attention_mask=mask, use_cache=False)
        return (output.last_hidden_state if self.plain else output.logits)[wanted]

    def logits(self, states: Tensor) -> Tensor:
        """[R, H] -> [R, V]."""
        return self.model.get_output_embeddings()(states) if self.plain else states


@torch.inference_mode()
def sequence_kl(spans: Sequence[Span], p: Reader, q: Reader, batch_size: int) -> list[float]:
    """KL(p || q) in nats, summed over the counted positions of each span."""
    tokens = _TOKENS_AT_ONCE if p.plain and q.plain else min(_TOKENS_AT_ONCE, _LOGITS_AT_ONCE // p.vocabulary)
    sums = [0.0] * len(spans)
    for batch in length_batches([len(span.ids) for span in spans], tokens, batch_size):
        ids, mask, wanted = (part.to(p.device) for part in _padded([spans[index] for index in batch]))
        states = p.states(ids, mask, wanted), q.states(ids, mask, wanted)
        kl = position_kl_by_parts(states[0], p.logits, states[1], q.logits, p.vocabulary)
        totals = sequence_sums(kl, owners=wanted.nonzero()[:, 0], sequences=len(batch))
        for index, total in zip(batch, totals.tolist(), strict=True):
            sums[index] = total
    return sums


def _padded(spans: Sequence[Span]) -> tuple[Tensor, Tensor, Tensor]:
    """ids, attention mask and wanted, all [B, T]. wanted[b, t]: the state at t predicts a counted token, t + 1."""
    width = max(len(span.ids) for span in spans)
    ids = torch.zeros(len(spans), width, dtype=torch.long)
    mask, wanted = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for row, span in enumerate(spans):
        length = len(span.ids)
        ids[row, :length], mask[row, :length] = torch.tensor(span.ids), 1
        wanted[row, span.first - 1 : length - 1] = True
    return ids, mask, wanted
