"""What a training takes of a machine's memory, part by part, before anything is loaded. No torch.

Weights, gradients and Adam's two moments are counted. Activations are what a forward pass keeps for the backward pass: so many numbers
a token and layer, which differ by family and are held to what autograd really keeps by tests/unit/memory/test_kept_numbers.py. The
result is held to real trainings by benchmarks/memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

from alignment.core.config import Precision
from alignment.memory.adapters import trained_weights
from alignment.memory.shape import Shape
from alignment.models.config import FreezeConfig, PeftConfig, QuantizationConfig

_FP32, _BF16 = 4, 2
_BYTES: dict[str, int] = {"fp32": _FP32, "bf16": _BF16}
_NF4 = 4.127 / 8  # bytes a weight, with its doubly quantised scales (Dettmers et al. 2023, section 3)
_LIBRARIES = 45 * 2**20  # kernels, threads and buffers of a first step on a CPU, whatever the model
_BF16_KERNELS = 150 * 2**20  # that a CPU compiles for each width of a batch
_FREED = 1.25  # of activations: batches differ in width, and what one has freed does not always fit the next
_FREED_INSIDE = 1.5  # the same with adapters inside the layers; both numbers as benchmarks/memory finds them
_HEAD_TOKENS, _HEAD_WORDS, _PAGE = (
    4096,
    32768,
    4096,
)  # of a tile in trl's head; its rows are so far apart that each has pages of its own


class Kept(NamedTuple):
    """Numbers that a layer keeps for each token, as multiples of the model's sizes. The first three are in the precision to compute
    in; `queries` and `exact` ones, of norms and residuals, stay in fp32."""

    feed_forward: float
    keys: float
    computed: float
    exact: float
    queries: float = 0


class Family(NamedTuple):
    """full: all weights are trained. inside: adapters within linear layers, which then need their inputs too. beside: virtual tokens
    and bottlenecks, for whose sake a frozen linear layer keeps nothing; None = the family goes without them."""

    full: Kept
    inside: Kept
    beside: Kept | None = None


_SCORES = 3  # a head and token that is read, where attention drops some: no CPU kernel does without them then

_LLAMA = Family(Kept(4, 2, 0, 6, 2), Kept(4, 2, 0, 4, 2), Kept(3, 0, 5, 2))
_BERT = Family(Kept(2, 0, 3, 7), Kept(2, 0, 5, 5))
# encoder-decoders: the mean of a token of the prompt, whose keys the decoder's layers keep too, and one of the answer
_T5 = Family(Kept(3, 1.5, 1.5, 8.5, 4.5), Kept(3, 1, 0, 7.5, 5))
_T5_GATED = Family(_T5.full._replace(feed_forward=8), _T5.inside._replace(feed_forward=8))
_FAMILIES = {
    "gpt2": Family(Kept(5, 0, 5, 5), Kept(5, 0, 6, 4), Kept(4, 0, 4, 3.5)),
    "opt": Family(Kept(1, 0, 6, 4), Kept(1, 0, 6, 4), Kept(1, 0, 8.75, 0)),
    "gpt_neox": Family(Kept(2, 0, 9, 1), Kept(2, 0, 9, 1), Kept(1, 0, 5.75, 0)),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta"), _BERT),
    "distilbert": Family(Kept(2, 0, 2, 7), Kept(2, 0, 4, 5)),
    "t5": _T5,
    **dict.fromkeys(("t5-gated", "mt5-gated"), _T5_GATED),
    "bart": Family(Kept(2, 0, 8, 6), Kept(2, 0, 9, 5)),
}


@dataclass(frozen=True)
class Training:
    """tokens: of the largest batch that is passed forwards and backwards at once, padding included. row: of one row of it, where a mask
    over its tokens keeps padding or other texts out; 0 = there is none. head: whether logits over the vocabulary are made. dropout:
    whether the model's dropouts are on. references: models of the same shape that are only read. anchors: copies of the trained
    weights. engine_tokens: of all sequences that an engine of its own samples at once; 0 = there is none."""

    shape: Shape
    tokens: int
    peft: PeftConfig | None = None
    quantization: QuantizationConfig | None = None
    freeze: FreezeConfig | None = None
    precision: Precision = "fp32"
    row: int = 0
    head: bool = True
    dropout: bool = True
    references: int = 0
    anchors: int = 0
    engine_tokens: int = 0


@dataclass(frozen=True)
class Memory:
    """Bytes, by part. merging: what is held beside `weights` and `optimiser` when an adapter is merged in the end."""

    trainable: int
    parameters: int
    parts: dict[str, int] = field(default_factory=dict)
    merging: int = 0

    @property
    def share(self) -> float:
        """Of the parameters, those that are trained."""
        return self.trainable / self.parameters

    @property
    def peak(self) -> int:
        """Gradients grow in a backward pass as activations go, so that both are never there as a whole."""
        moving = max(self.parts.get("activations", 0), self.parts.get("gradients", 0))
        still = sum(size for name, size in self.parts.items() if name not in ("activations", "gradients"))
        merged = sum(self.parts.get(name, 0) for name in ("weights", "optimiser", "libraries")) + self.merging
        return max(still + moving, merged)


def estimate(training: Training) -> Memory:
    """Of a training in one process on a CPU; on a GPU its kernels take some hundred MiB more."""
    shape, peft = training.shape, training.peft
    trained = trained_weights(shape, peft, training.freeze)
    added = trained if peft is not None else 0
    parts = {
        "weights": _held(training) + added * _FP32,
        "gradients": trained * _FP32,
        "optimiser": 2 * trained * _FP32,
        "activations": held_activations(training),
        "references": shape.parameters * _FP32 * training.references,
        "anchor": trained * _FP32 * training.anchors,
        "engine": _engine(training),
        "libraries": _LIBRARIES + _BF16_KERNELS * (training.precision == "bf16"),
    }
    merging = shape.parameters * _FP32 if peft is not None and peft.merges else 0
    return Memory(trained, shape.parameters + added, {name: size for name, size in parts.items() if size}, merging)


def held_activations(training: Training) -> int:
    """Bytes of `activations`, as an allocator holds them."""
    inside = training.peft is not None and training.peft.merges
    return round((_FREED_INSIDE if inside else _FREED) * activations(training))


def activations(training: Training) -> int:
    """Bytes that one forward pass keeps, and what the backward pass of a single layer has at work."""
    shape, peft = training.shape, training.peft
    family = _FAMILIES.get(shape.family, _LLAMA)
    kept = family.full if peft is None else family.inside if peft.merges else family.beside or family.inside
    bytes_computed = _BYTES[training.precision]
    keys = shape.queries if training.row else shape.keys  # under a mask they are repeated for every head
    computed = kept.feed_forward * shape.feed_forward + kept.keys * keys + kept.computed * shape.hidden
    exact = kept.exact * shape.hidden + kept.queries * shape.queries + _of_reading(training)
    layer = computed * bytes_computed + (exact + _of_adapter(training)) * _FP32
    at_work = (3 if peft is None else 5) * shape.feed_forward * bytes_computed + 3 * shape.hidden * _FP32
    at_work += _of_reading(training) * _FP32
    last_norm = 3 * shape.hidden * _FP32
    total = training.tokens * (shape.layers * layer + at_work + last_norm)
    if training.head:
        row = -(-min(shape.vocabulary, _HEAD_WORDS) * bytes_computed // _PAGE) * _PAGE
        total += min(training.tokens, _HEAD_TOKENS) * row
    linear = sum(map(prod, shape.linear.values()))
    if peft is None and training.precision == "bf16":
        total += linear * _BF16  # autocast's copies of the weights
    if peft is not None and peft.method == "dora":
        total += 2 * linear * _FP32  # the whole update, twice, to take its norm
    return round(total)


def _of_reading(training: Training) -> int:
    """Numbers that a layer keeps for each token about those that it reads: scores of each head, or the mask."""
    heads = training.shape.dropping_heads if training.dropout else 0
    return training.row * (_SCORES * heads or 1)


def _of_adapter(training: Training) -> float:
    """Numbers that an adapter keeps for each token and layer."""
    peft, shape = training.peft, training.shape
    if peft is None:
        return 0
    if peft.method in ("lora", "rslora", "dora"):
        return peft.r * len(shape.linear) / shape.layers
    if peft.method == "bottleneck":
        return 4 * (peft.width or 0) + shape.hidden
    return 0


def _held(training: Training) -> int:
    """Bytes of the model's own weights."""
    shape, few = training.shape, training.quantization
    if few is None:
        return shape.parameters * (_BYTES[training.precision] if training.peft is not None else _FP32)
    linear = sum(prod(size) for name, size in shape.linear.items() if not _stays_whole(name, shape.family))
    rest = (shape.parameters - linear) * _BYTES[few.rest]
    return round(linear * (_NF4 if few.bits == 4 else 1)) + rest


def _stays_whole(name: str, family: str) -> bool:
    """T5's second feed-forward layer, which transformers never holds in few bits."""
    return family.startswith(("t5", "mt5")) and name.endswith(".wo")


def _engine(training: Training) -> int:
    """Weights of its own, and the keys and values of all that it samples at once."""
    shape, size = training.shape, _BYTES[training.precision]
    cache = 2 * shape.layers * shape.keys * training.engine_tokens
    return (shape.parameters + cache) * size if training.engine_tokens else 0
