"""What a divergence is measured on, read and found to be sound before any model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.core.artifact import Artifact, digest_of
from alignment.core.config import DataRef
from alignment.core.context import derive_seed
from alignment.core.errors import DataError, ModelError
from alignment.data.chat import prompt_ids
from alignment.data.rows import load_rows
from alignment.generation.engine import Sampling
from alignment.models.encoding import listed
from alignment.models.load import context_of, load_tokenizer, read_config
from eval.config import EvaluateConfig, InputKind

BLOCK = "evaluation.divergence"
_UNLIMITED = 1 << 62


@dataclass(frozen=True)
class Inputs:
    """Prompts, or given texts, as token ids. doc_ids: the rows' places in their data set. doc_hashes: of what the rows say."""

    ids: list[list[int]]
    doc_ids: list[int]
    doc_hashes: list[str]
    given: bool


@dataclass(frozen=True)
class Prepared:
    """What is to be measured. references: folder by name."""

    model: Path
    references: dict[str, Path]
    inputs: dict[InputKind, Inputs]
    sampling: Sampling
    batch_size: int


def prepare(config: EvaluateConfig, inputs: Mapping[str, Artifact]) -> Prepared:
    """Read the rows, and hold the model to its references.

    Raises ModelError where a reference does not read the same tokens, DataError for rows that cannot be used.
    """
    block, folder = config.divergence, inputs["model"].path
    assert block is not None
    folders = [inputs[f"divergence.references.{index}.model"].path for index in range(len(block.references))]
    references = dict(zip([reference.name for reference in block.references], folders, strict=True))
    tokenizer = load_tokenizer(folder)
    others = {name: load_tokenizer(path) for name, path in references.items()}
    for name, other in others.items():
        _require_same_vocabulary(name, (folder, tokenizer), (references[name], other))
    room = min(_context(path) for path in (folder, *folders))
    found: dict[InputKind, Inputs] = {}
    for kind, data in block.data().items():
        where = f"{BLOCK}.{kind}"
        found[kind] = _read(data, inputs.get(f"divergence.{kind}"), tokenizer, others, where)
        _require_room(found[kind], room, block.max_new_tokens, where)
    sampling = Sampling(block.max_new_tokens, 1.0, derive_seed(config.sampling_seed, "divergence"))
    return Prepared(folder, references, found, sampling, config.batch_size)


def _read(data: DataRef, artifact: Artifact | None, tokenizer: Any, others: Mapping[str, Any], where: str) -> Inputs:
    """The rows, spread evenly over the data set where not all are wanted. Rows with `prompt` are prompts, else they are texts."""
    everything = data.model_copy(update={"rows": None})
    field = "prompt" if "prompt" in load_rows(everything, artifact, where=where)[0] else "text"
    rows = load_rows(everything, artifact, (field,), where)
    count = min(data.rows or len(rows), len(rows))
    chosen = [place * len(rows) // count for place in range(count)]
    contents = [rows[index][field] for index in chosen]
    ids = [prompt_ids(tokenizer, content) for content in contents]
    for name, other in others.items():
        if [prompt_ids(other, content) for content in contents] != ids:
            what = f"{name} and the evaluated model read its rows as different tokens"
            expected = "the same special tokens and, for messages, the same chat template"
            raise ModelError(
                where, what, expected, "save one tokenizer beside both models, or give prompts as plain text"
            )
    least = 2 if field == "text" else 1
    short = [number + 1 for number, tokens in zip(chosen, ids, strict=True) if len(tokens) < least]
    if short:
        what = f"{listed(short)}: too short, there is nothing to predict from"
        raise DataError(where, what, f"{least} tokens or more", "leave them out")
    return Inputs(ids, chosen, [digest_of(content) for content in contents], field == "text")


def _require_room(inputs: Inputs, room: int, max_new_tokens: int, where: str) -> None:
    new_tokens = 0 if inputs.given else max_new_tokens
    pairs = zip(inputs.doc_ids, inputs.ids, strict=True)
    long = [number + 1 for number, ids in pairs if len(ids) + new_tokens > room]
    if long:
        size = f"the longest has {max(map(len, inputs.ids))}" + (f", and {new_tokens} new ones" if new_tokens else "")
        what = f"{listed(long)}: too long for a context of {room} tokens ({size})"
        remedy = f"shorten or leave out these rows{', or lower max_new_tokens' if new_tokens else ''}"
        raise DataError(where, what, "inputs and answers that fit the context of every model", remedy)


def _require_same_vocabulary(name: str, model: tuple[Path, Any], reference: tuple[Path, Any]) -> None:
    """A sum over the vocabulary means something only where each id is the same token on both sides."""
    where, remedy = f"{BLOCK}.references: {name}", "compare models of one family, without added tokens"
    ours, theirs = (read_config(path).get_text_config().vocab_size for path, _ in (model, reference))
    if ours != theirs:
        what = f"its vocabulary has {theirs:,} entries, the evaluated model's {ours:,}"
        raise ModelError(where, what, "one vocabulary", remedy)
    mine, its = model[1].get_vocab(), reference[1].get_vocab()
    differing = sum(mine.get(token) != its.get(token) for token in mine.keys() | its.keys())
    if differing:
        what = f"its tokenizer is not the evaluated model's: {differing:,} tokens have another id or none"
        raise ModelError(where, what, "the same tokens under the same ids", remedy)


def _context(folder: Path) -> int:
    return context_of(folder) or _UNLIMITED
