"""Sequences laid end to end, so that a forward pass pays for real tokens only.

Everything in a transformer but attention treats tokens one by one. So the sequences of a batch are packed into one row, and
attention alone sees them apart, through `_attend_within_sequences`, which is registered with transformers under the name
PACKED and reads where sequences begin from `Pack.groups`. Models that take no such function (other attention, state spaces)
run on padded batches of the same interface: same numbers, more work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from alignment.core.errors import ModelError
from alignment.generation.engine import Completion

PACKED = "packed_causal"
_CALL = (
    8000  # what a call of the attention kernel costs beside its work, in pairs of tokens; padding up to that is cheaper
)
_AGREEMENT = {torch.float32: 1e-5}  # relative difference above which packing is not trusted with a model
_ROUNDING = 0.1  # the same in 16 bits


@dataclass(frozen=True)
class Group:
    """Neighbours in a pack, `size` tokens together, as `count` rows of `width` for attention. slots: the place of each token in
    those rows; None if they are full."""

    size: int
    count: int
    width: int
    slots: Tensor | None


@dataclass(frozen=True)
class Pack:
    """Some sequences of a batch, ready for a forward pass.

    rows:       their indices in the batch, longest sequence first.
    input_ids, position_ids: [1, N] packed, or [rows, width] padded on the right.
    attention_mask: None if packed.
    predicts:   [R] where in the flattened tokens the one **before** each response token is: there it is predicted, and there
                its prefix is valued.
    targets:    [R] the response tokens.
    slots, shape: where the R numbers belong in the grid [rows, T].
    repeat:     met before: its numbers must not count again.
    """

    rows: list[int]
    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor | None
    groups: list[Group] | None
    predicts: Tensor
    targets: Tensor
    slots: Tensor
    shape: tuple[int, int]
    repeat: bool = False

    def repeated(self) -> Pack:
        return replace(self, repeat=True)

    def grid(self, numbers: Tensor) -> Tensor:
        """[R] -> [rows, T], 0 where there is no response token."""
        return numbers.new_zeros(self.shape).flatten().index_copy(0, self.slots, numbers).view(self.shape)


def packs(
    completions: Sequence[Completion], rows: Sequence[int], *, width: int, tokens: int, packed: bool, device: str
) -> Iterator[Pack]:
    """The sequences `rows` of a batch in as few packs as hold at most `tokens` each. width: T of the grids."""
    ordered = sorted(rows, key=lambda row: -length_of(completions[row]))
    start = 0
    while start < len(ordered):
        stop, longest, total = start, length_of(completions[ordered[start]]), 0
        while stop < len(ordered):
            total += length_of(completions[ordered[stop]]) if packed else longest
            if total > tokens and stop > start:
                break
            stop += 1
        yield _pack(completions, ordered[start:stop], width, packed, device)
        start = stop


def _pack(completions: Sequence[Completion], rows: list[int], width: int, packed: bool, device: str) -> Pack:
    chosen = [completions[row] for row in rows]
    lengths = [length_of(completion) for completion in chosen]
    sequences = [torch.tensor(completion.prompt_ids + completion.response_ids) for completion in chosen]
    starts = _starts(lengths) if packed else [row * lengths[0] for row in range(len(rows))]
    predicts, slots = [], []
    for row, (completion, start) in enumerate(zip(chosen, starts, strict=True)):
        before, count = start + len(completion.prompt_ids) - 1, len(completion.response_ids)
        predicts.append(torch.arange(before, before + count))
        slots.append(torch.arange(count) + row * width)
    if packed:
        input_ids = torch.cat(sequences)[None]
        position_ids = torch.cat([torch.arange(length) for length in lengths])[None]
        mask, groups = None, _groups(lengths, device)
    else:
        input_ids = nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        positions = torch.arange(lengths[0]).expand_as(input_ids)
        mask = positions < torch.tensor(lengths)[:, None]
        position_ids, groups, mask = positions * mask, None, mask.long().to(device)
    return Pack(
        rows=rows,
        input_ids=input_ids.to(device),
        position_ids=position_ids.to(device),
        attention_mask=mask,
        groups=groups,
        predicts=torch.cat(predicts).to(device),
        targets=torch.cat([torch.tensor(completion.response_ids) for completion in chosen]).to(device),
        slots=torch.cat(slots).to(device),
        shape=(len(rows), width),
    )


def response_states(model: Any, pack: Pack, logits: bool = False) -> Tensor:
    """A trunk's last hidden states [R, H] of the prefix before each response token; or a language model's logits [R, V] there."""
    if not logits:
        return _Take.apply(_forward(model, pack).last_hidden_state.flatten(0, 1), pack.predicts)
    if pack.groups is None:
        return _forward(model, pack).logits.flatten(0, 1)[pack.predicts]
    return _forward(model, pack, logits_to_keep=pack.predicts).logits[0]


def _forward(model: Any, pack: Pack, **options: Any) -> Any:
    if pack.groups is not None:
        options |= {"groups": pack.groups}
    return model(
        input_ids=pack.input_ids,
        position_ids=pack.position_ids,
        attention_mask=pack.attention_mask,
        use_cache=False,
        **options,
    )


@torch.no_grad()
def allow_packing(backbone: Any) -> bool:
    """Makes a model ready for packs. False, and the model as it was, if packing does not give it the right hidden states:
    that is tried on two short sequences."""
    if not backbone._supports_attention_backend:
        return False
    before = backbone.config._attn_implementation
    device = next(backbone.parameters()).device
    size, dtype = backbone.config.get_text_config().vocab_size, next(backbone.parameters()).dtype
    trial = [Completion([1 % size, 2 % size], [3 % size] * n, [], True) for n in (5, 3)]
    alone = [packs(trial, [row], width=5, tokens=99, packed=False, device=str(device)) for row in (0, 1)]
    expected = torch.cat([response_states(backbone, next(pack)) for pack in alone]).float()
    backbone.set_attn_implementation(PACKED)
    try:
        together = next(packs(trial, [0, 1], width=5, tokens=99, packed=True, device=str(device)))
        difference = (response_states(backbone, together).float() - expected).norm() / expected.norm()
        right = bool(difference < _AGREEMENT.get(dtype, _ROUNDING))
    except (TypeError, RuntimeError, ValueError, AssertionError, ModelError):
        right = False
    if not right:
        backbone.set_attn_implementation(before)
    return right


def _attend_within_sequences(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    groups: list[Group] | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention of every sequence to itself. [1, heads, N, head size] -> [1, N, heads, head size]."""
    assert groups is not None, "a model made ready for packs was called without one"
    grouped_heads = query.shape[1] != key.shape[1]
    # On CPU torch's bf16 kernel is several times slower backward than the fp32 one.
    dtype = torch.float32 if query.device.type == "cpu" else query.dtype
    packed = [_split(part[0].transpose(0, 1).to(dtype), groups) for part in (query, key, value)]
    attended = []
    for group, parts in zip(groups, zip(*packed, strict=True), strict=True):
        q, k, v = (_as_rows(part, group) for part in parts)
        window = _window(group.width, sliding_window, q.device)
        output = F.scaled_dot_product_attention(
            q, k, v, attn_mask=window, is_causal=window is None, scale=scaling, enable_gqa=grouped_heads
        )
        flat = output.transpose(1, 2).flatten(0, 1)
        attended.append(flat if group.slots is None else _Take.apply(flat, group.slots))
    together = torch.cat(attended) if len(attended) > 1 else attended[0]
    return together[None].to(query.dtype), None


def _split(part: Tensor, groups: Sequence[Group]) -> Sequence[Tensor]:
    """One group is all there is: splitting it would copy its gradient."""
    return part.split([group.size for group in groups]) if len(groups) > 1 else [part]


AttentionInterface.register(PACKED, _attend_within_sequences)


def _window(width: int, size: int | None, device: torch.device) -> Tensor | None:
    """[width, width] bool: causal, and no further back than `size` tokens, the token itself included. None: all are near."""
    if size is None or width <= size:
        return None
    distance = torch.arange(width, device=device)[:, None] - torch.arange(width, device=device)
    return (distance >= 0) & (distance < size)


def _as_rows(part: Tensor, group: Group) -> Tensor:
    """[tokens, heads, size] -> [count, heads, width, size]; padding is 0, and comes after all that could attend to it."""
    if group.slots is not None:
        part = part.new_zeros(group.count * group.width, *part.shape[1:]).index_copy(0, group.slots, part)
    return part.view(group.count, group.width, *part.shape[1:]).transpose(1, 2)


class _Take(torch.autograd.Function):
    """`flat[slots]` for distinct slots: its gradient is a copy, where index_select's is a slow sum."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        ctx.rows = flat.shape[0]
        return flat.index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (slots,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.rows, *gradient.shape[1:]).index_copy_(0, slots, gradient), None


def _groups(lengths: Sequence[int], device: str) -> list[Group]:
    """lengths: falling. Neighbours share a call of the attention kernel until their padding costs more than another call."""
    groups, first = [], 0
    while first < len(lengths):
        width, stop, wasted = lengths[first], first + 1, 0
        while stop < len(lengths) and (wasted := wasted + width**2 - lengths[stop] ** 2) <= _CALL:
            stop += 1
        members = lengths[first:stop]
        slots = None
        if members[-1] < width:
            slots = torch.cat([torch.arange(length) + row * width for row, length in enumerate(members)]).to(device)
        groups.append(Group(sum(members), len(members), width, slots))
        first = stop
    return groups


def _starts(lengths: Sequence[int]) -> list[int]:
    return [sum(lengths[:row]) for row in range(len(lengths))]


def length_of(completion: Completion) -> int:
    """Tokens of prompt and response."""
    return len(completion.prompt_ids) + len(completion.response_ids)
