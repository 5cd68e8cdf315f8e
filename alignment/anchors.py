"""Penalties that hold a model near where it began, so that it forgets less of what it knew.

Each is added to a batch's loss, which is in nats a token, times its coefficient:

    l2    1/2 sum over the weights of (w - w_start)^2                Li et al. 2018, "L2-SP"
    ewc   1/2 sum over the weights of F (w - w_start)^2              Kirkpatrick et al. 2017
    kl    mean over the batch's learned tokens of KL(p_start || p)   over the whole vocabulary

F is the diagonal of the Fisher information that one token of old data carries. The sum under `ewc` is therefore the KL to the start, in
nats a token of that data, to second order and as if weights acted one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.core.errors import ModelError
from alignment.data.stream import LEARNABLE, Reading
from alignment.models.config import AnchorConfig, AnchoredConfig
from alignment.models.encoding import Encoded, encode_row, fit
from alignment.models.heads import head_is_plain
from alignment.models.load import load_to_read

_LOGITS_AT_ONCE = 1 << 24  # 64 MiB in fp32, several times over


class WeightAnchor:
    """l2 or ewc. Its gradient is known, so that nothing of it goes through a backward pass."""

    def __init__(self, model: nn.Module, coefficient: float, importance: Mapping[str, Tensor] | None = None) -> None:
        """importance: F of every trainable weight by name; None = 1 for all."""
        self._coefficient = coefficient
        self._held = [
            (weight, weight.detach().clone(), importance[name] if importance is not None else None)
            for name, weight in model.named_parameters()
            if weight.requires_grad
        ]

    @torch.no_grad()
    def pull(self) -> None:
        """Adds coefficient * F * (w - w_start) to the gradients."""
        for weight, start, importance in self._held:
            if weight.grad is not None:
                change = weight - start
                weight.grad.add_(change if importance is None else change.mul_(importance), alpha=self._coefficient)

    @torch.no_grad()
    def distance(self) -> float:
        """1/2 sum of F * (w - w_start)^2."""
        parts = (
            ((weight - start).square() * (1.0 if importance is None else importance)).sum()
            for weight, start, importance in self._held
        )
        return 0.5 * float(sum(parts))


class KlAnchor:
    """kl. The trained model's own forward pass is listened to; the start needs one more, without gradients."""

    def __init__(self, model: Any, start: Any, coefficient: float) -> None:
        """start: the model as it began; None = `model` without peft's adapter. Raises ModelError for a model that does more to its last
        hidden states than to multiply them by its output embeddings."""
        self._model, self._start, self._coefficient = model, start, coefficient
        self._states: Tensor | None = None
        self.divergence = 0.0  # nats a token, of the last batch
        lm = model.get_base_model() if start is None else model
        training = model.training
        model.eval()
        plain = head_is_plain(lm)
        model.train(training)
        if not plain:
            raise ModelError(
                "anchor.method",
                "kl: this model scales or caps its logits",
                "logits that are its output embeddings times its last hidden states",
                "use l2 or ewc",
            )
        self._decoder, self._head = lm.get_decoder(), lm.get_output_embeddings()
        self._decoder.register_forward_hook(self._listen)

    def _listen(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if torch.is_grad_enabled() and module.training:
            self._states = output.last_hidden_state

    def loss(
        self, inputs: Mapping[str, Tensor], tokens: Tensor | float, autocast: AbstractContextManager[Any]
    ) -> Tensor:
        """Scalar: the penalty of the batch that the model has just been given. inputs: with `labels`, -100 where nothing is learned.
        tokens: learned ones of the whole optimiser step, which the sum is divided by."""
        learned = inputs["labels"][:, 1:] != -100
        read = {name: inputs[name] for name in ("input_ids", "attention_mask", "position_ids") if name in inputs}
        assert self._states is not None, "the model was given no batch"
        states, self._states = self._states[:, :-1][learned], None
        with torch.no_grad(), autocast:
            start = self._start_states(read)[:, :-1][learned]
        head = self._head if self._start is None else self._start.get_output_embeddings()
        total = kl_sum(start, head, states, self._head)
        self.divergence = total.item() / max(1, len(states))
        return self._coefficient * total / tokens

    def _start_states(self, read: Mapping[str, Tensor]) -> Tensor:
        if self._start is not None:
            return self._start.get_decoder()(**read, use_cache=False).last_hidden_state
        self._model.eval()
        with self._model.disable_adapter():
            states = self._decoder(**read, use_cache=False).last_hidden_state
        self._model.train()
        return states


def kl_sum(p_states: Tensor, p_head: nn.Linear, q_states: Tensor, q_head: nn.Linear) -> Tensor:
    """Scalar: sum over R positions of KL(p || q) in nats, in fp32, where each distribution is softmax(head(states[R, H])).

    Logits exist for a few positions at a time, in the backward pass too.
    """
    size = max(1, _LOGITS_AT_ONCE // p_head.weight.shape[0])
    blocks = zip(p_states.split(size), q_states.split(size), strict=True)
    parts = [checkpoint(_block_kl, p, p_head.weight.detach(), q, q_head.weight, use_reentrant=False) for p, q in blocks]
    return torch.stack(parts).sum() if parts else q_states.sum() * 0  # pyright: ignore[reportArgumentType]


def _block_kl(p: Tensor, p_weight: Tensor, q: Tensor, q_weight: Tensor) -> Tensor:
    with torch.autocast(p.device.type, enabled=False):
        p_logs, q_logs = (F.linear(s.float(), w.float()).log_softmax(-1) for s, w in ((p, p_weight), (q, q_weight)))
    return F.kl_div(q_logs, p_logs, reduction="sum", log_target=True)


def fisher(model: Any, rows: Sequence[Encoded], seed: int) -> dict[str, Tensor]:
    """Diagonal of the Fisher information, by the name of each trainable weight: the mean over counted tokens of the squared gradient of
    log p(y | text before), with y drawn from the model itself.

    One row at a time: the squares of a batch's summed gradients would be something else.
    """
    named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    totals = {name: torch.zeros_like(weight) for name, weight in named.items()}
    generator = torch.Generator(model.device).manual_seed(seed)
    training, tokens = model.training, 0
    model.eval()
    for row in rows:
        logits = model(torch.tensor([row.ids], device=model.device), use_cache=False).logits[0, :-1]
        logits = logits[torch.tensor(row.mask[1:])].float()
        drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
        gradients = torch.autograd.grad(F.cross_entropy(logits, drawn, reduction="sum"), list(named.values()))
        for total, gradient in zip(totals.values(), gradients, strict=True):
            total.add_(gradient.square())
        tokens += len(drawn)
    model.train(training)
    return {name: total / tokens for name, total in totals.items()}


class Anchored:
    """A Hugging Face trainer with a `WeightAnchor`: before the clip of each optimiser step the anchor pulls."""

    anchor: WeightAnchor | None = None

    def training_step(self, *args: Any, **options: Any) -> Tensor:
        loss = super().training_step(*args, **options)  # type: ignore[misc]
        if self.anchor is not None and self.accelerator.sync_gradients:  # type: ignore[attr-defined]
            self.anchor.pull()
        return loss

    def held(self) -> dict[str, float]:
        """How far the anchor has let the model go."""
        return {"anchor_distance": self.anchor.distance()} if self.anchor else {}


def weight_anchor(
    config: AnchoredConfig, model: Any, tokenizer: Any, limit: int, inputs: Mapping[str, Artifact], context: Context
) -> WeightAnchor | None:
    """That of a recipe whose `anchor` holds weights, on a model that was not trained yet. limit: tokens of an old row that are read."""
    anchor = config.anchor
    if anchor is None or anchor.method == "kl":
        return None
    importance = None
    if anchor.method == "ewc":
        rows = _old_rows(anchor, tokenizer, limit, inputs)
        context.log.info(f"Fisher information of {sum(row.counted for row in rows)} tokens in {len(rows)} rows")
        importance = fisher(model, rows, context.seed_for("fisher"))
    return WeightAnchor(model, anchor.coefficient, importance)


def kl_anchor(config: AnchoredConfig, model: Any, path: Path) -> KlAnchor | None:
    """That of a recipe whose `anchor` holds what the model says. path: of the model as it began."""
    if config.anchor is None or config.anchor.method != "kl":
        return None
    apart = config.peft is not None and config.peft.merges
    start = None if apart else load_to_read(path).to(model.device).requires_grad_(False)  # type: ignore[arg-type]
    return KlAnchor(model, start, config.anchor.coefficient)


def _old_rows(anchor: AnchorConfig, tokenizer: Any, limit: int, inputs: Mapping[str, Artifact]) -> list[Encoded]:
    where = "anchor.data"
    assert anchor.data is not None
    rows = Reading(anchor.data, inputs.get(where), where).usable(LEARNABLE)
    return fit([encode_row(tokenizer, row) for row in rows], limit, "truncate", where)
