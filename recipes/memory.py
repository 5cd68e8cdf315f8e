"""What each training stage of a recipe will take of the machine's memory, before anything is loaded. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from alignment.core.artifact import Artifact
from alignment.core.config import DataRef
from alignment.core.errors import ModelError
from alignment.data.mixture import MixedRef
from alignment.lab.config import PretrainConfig
from alignment.lab.vocabulary import MAX_LENGTH, count_tokens, vocabulary
from alignment.memory.estimate import Memory, Training
from alignment.memory.shape import Shape, llama_weights, shape_in, shape_of
from alignment.memory.stages import TRAINED, memory_of, token_limit, training_of
from alignment.memory.words import MIB, advice, verdict
from recipes.check_rows import CheckedData
from recipes.plan import Cell, Plan

_PARTS = ("weights", "gradients", "optimiser", "activations")
_LETTERS = 4  # of a token, where no tokenizer can be asked
_MARKERS = 8  # tokens of a chat template beside what is said
_ASSUMED = 2048  # tokens of a row that nobody has read yet


class Estimates(NamedTuple):
    """By stage: what each training takes; how long sequences were assumed to be, where its rows are not read yet; why there is no
    estimate."""

    found: dict[str, tuple[Training, Memory]]
    assumed: dict[str, int]
    left_out: dict[str, str]


def stage_memory(plan: Plan, data: Sequence[CheckedData]) -> Estimates:
    """For the stages that train. One whose model cannot be read yet, such as one on the hub, is left out."""
    texts = {each.where: each.longest for each in data}
    estimates = Estimates({}, {}, {})
    for cell in {cell.stage: cell for cell in plan.cells if cell.config.kind in TRAINED}.values():
        try:
            start = _start(cell)
            shape = _lab_shape(start) if isinstance(start, PretrainConfig) else shape_in(start)
        except ModelError as error:
            estimates.left_out[cell.stage] = error.what
            continue
        longest = _longest(cell, plan, texts, _counter(start))
        if longest is None:
            longest = estimates.assumed[cell.stage] = min(_ASSUMED, token_limit(cell.config, shape) or _ASSUMED)
        training = training_of(cell.config, shape, longest)
        estimates.found[cell.stage] = training, memory_of(cell.config, training)
    return estimates


def _start(cell: Cell) -> PretrainConfig | Path:
    """What the model of a stage goes back to: a pre-training, or a folder from outside. Raises ModelError where neither is there."""
    source: Cell | Artifact = cell
    while isinstance(source, Cell):
        if isinstance(source.config, PretrainConfig):
            return source.config
        if "model" not in source.inputs:
            raise _unreadable(f"stage {source.stage} has yet to lay it out", cell)
        source = source.inputs["model"]
    if not source.path.is_dir():
        raise _unreadable(f"{source.digest} is not in the local cache", cell)
    return source.path


def _unreadable(what: str, cell: Cell) -> ModelError:
    return ModelError(f"stages.{cell.stage}.model", what, "a model that can be read", "run the recipe")


def _lab_shape(config: PretrainConfig) -> Shape:
    sizes = {"vocab_size": len(vocabulary()), "hidden_size": config.hidden_size, "num_hidden_layers": config.layers}
    sizes |= {"intermediate_size": 3 * config.hidden_size, "num_attention_heads": 1}
    sizes |= {"max_position_embeddings": MAX_LENGTH}
    weights = llama_weights(
        len(vocabulary()), config.hidden_size, 3 * config.hidden_size, config.layers, config.hidden_size
    )
    return shape_of(sizes | {"model_type": "llama"}, weights)


def _longest(cell: Cell, plan: Plan, texts: Mapping[str, Sequence[str]], count: Callable[[str], int]) -> int | None:
    """Tokens of the longest row that the stage learns from; None = some rows are not read yet."""
    config: Any = cell.config
    if getattr(config, "packing", False):
        return 1 << 20
    references = {name: getattr(config, name, None) for name in ("data", "prompts")}
    replay = getattr(config, "replay", None)
    references["replay.data"] = replay and replay.data
    lengths = [_length(ref, cell.stage, name, plan, texts, count) for name, ref in references.items() if ref]
    return _most(lengths)


def _length(
    ref: DataRef, stage: str, role: str, plan: Plan, texts: Mapping[str, Sequence[str]], count: Callable[[str], int]
) -> int | None:
    if isinstance(ref, MixedRef) and ref.mixture is not None:
        parts = ref.mixture.items()
        return _most([_length(part, stage, f"{role}.mixture.{name}", plan, texts, count) for name, part in parts])
    if ref.stage is None:
        return max((count(text) + _MARKERS for text in texts.get(f"stages.{stage}.{role}", ())), default=None)
    maker: Any = plan.recipe.stages[ref.stage]
    if maker.kind == "excerpts":
        return maker.opening_tokens + maker.continuation_tokens
    prompt = _length(maker.prompts, ref.stage, "prompts", plan, texts, count)
    return prompt and prompt + maker.max_new_tokens


def _most(lengths: Sequence[int | None]) -> int | None:
    known = [length for length in lengths if length is not None]
    return max(known) if known and len(known) == len(lengths) else None


def _counter(start: PretrainConfig | Path) -> Callable[[str], int]:
    if isinstance(start, PretrainConfig):
        return count_tokens
    return _tokenizer(start) if (start / "tokenizer.json").is_file() else lambda text: len(text) // _LETTERS


@cache
def _tokenizer(folder: Path) -> Callable[[str], int]:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # the library raises nothing narrower; the stage itself says what is wrong with it
        return lambda text: len(text) // _LETTERS
    return lambda text: len(tokenizer.encode(text).ids)


def memory_table(estimates: Estimates, machine: float) -> Table:
    """A line for each stage, with a star where rows are assumed. machine: its bytes."""
    title = f"Memory of each training in MiB; this machine has {machine / MIB:,.0f}"
    table = Table(box=None, padding=(0, 1, 0, 0), title_justify="left", title=title)
    table.add_column("stage", min_width=max(map(len, estimates.found)) + bool(estimates.assumed))
    for name in ("trained", *_PARTS, "rest", "at most"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for stage, (_, memory) in estimates.found.items():
        own = [memory.parts.get(name, 0) for name in _PARTS]
        numbers = [*own, sum(memory.parts.values()) - sum(own), memory.peak]
        trained = "100%" if memory.share == 1 else f"{memory.share:.2%}"
        row = [f"{number / MIB:,.1f}" if number < MIB else f"{number / MIB:,.0f}" for number in numbers]
        table.add_row(stage + "*" * (stage in estimates.assumed), trained, *row, verdict(memory, machine))
    return table


def notes(estimates: Estimates) -> list[str]:
    """What the table rests on, and what is not in it."""
    assumed = [
        f"* stages.{stage}: rows not read yet: sequences of {tokens:,} tokens assumed"
        for stage, tokens in estimates.assumed.items()
    ]
    return [*assumed, *(f"stages.{stage}: memory not estimated: {why}" for stage, why in estimates.left_out.items())]


def remedies(estimates: Estimates, machine: float) -> list[str]:
    """A sentence for each stage that does not fit."""
    return [
        f"stages.{stage}: {advice(training, memory, machine)}"
        for stage, (training, memory) in estimates.found.items()
        if verdict(memory, machine) != "fits"
    ]
