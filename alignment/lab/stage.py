"""Pre-training of the lab's base model: a small Llama learns the corpus in about two minutes of one core.

Left out of a usual pre-training: data on disk (documents are drawn as needed), dropout, gradient accumulation.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.lab import corpus
from alignment.lab.config import HEAD_SIZE, PretrainConfig
from alignment.lab.packing import ROW_TOKENS, Batch, collate, encode, pack
from alignment.lab.tokenizer import make_tokenizer
from alignment.lab.vocabulary import MAX_LENGTH, PAD, SPECIAL

_LOG_EVERY = 20
_CHECKPOINT = "checkpoint.pt"


def run(config: PretrainConfig, inputs: Mapping[str, Artifact], context: Context) -> dict[str, Any]:
    """Train from scratch and save a Hugging Face folder. Returns train_steps, train_tokens, parameters and final loss."""
    tokenizer = make_tokenizer()
    model = make_model(config, tokenizer, context.seed_for("weights"))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.05, fused=True
    )
    documents = corpus.documents("train", context.seed_for("documents"), config.leave_out)
    pad_id = SPECIAL.index(PAD)
    packed = islice(pack(encode(documents, tokenizer), config.batch_tokens // ROW_TOKENS), config.steps)
    step, tokens, losses = _resume(model, optimizer, context)

    for rows in islice(packed, step, None):
        batch = collate(rows, pad_id)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config.steps, config.learning_rate)
        loss = weighted_loss(model, batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

        step += 1
        tokens += sum(len(sequence.ids) for row in rows for sequence in row)
        losses = [*losses[1 - _LOG_EVERY :], loss.item()]
        context.progress.update(step, config.steps, "pretrain", loss=losses[-1])
        if step % _LOG_EVERY == 0 or step == config.steps:
            context.log.metrics(step, {"train/loss": sum(losses) / len(losses), "train/grad_norm": norm.item()})
        if step % config.checkpoint_every == 0 and step < config.steps:
            _checkpoint(model, optimizer, step, tokens, losses, context)

    model.save_pretrained(context.workdir)
    tokenizer.save_pretrained(context.workdir)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "train_steps": step,
        "train_tokens": tokens,
        "parameters": parameters,
        "train_loss": sum(losses) / len(losses),
    }


def make_model(config: PretrainConfig, tokenizer: Any, seed: int) -> LlamaForCausalLM:
    """A fresh Llama with tied embeddings. Initial deviation .05: at this size it learns far faster than with .02."""
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=3 * config.hidden_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.hidden_size // HEAD_SIZE,
        num_key_value_heads=config.hidden_size // HEAD_SIZE,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        initializer_range=0.05,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(shape).train()


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over the first 5 %, then linear decay; the step after the last one would have 0."""
    warmup = max(1, steps // 20)
    return peak * min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))


def weighted_loss(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """Mean of -log p(token t | < t) within each document, weighted by `batch.weights`. Scalar, in nats."""
    targets, weights = batch.input_ids[:, 1:].flatten(), batch.weights[:, 1:].flatten()
    counted = weights > 0
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(
            input_ids=batch.input_ids, attention_mask=batch.visible, position_ids=batch.positions, use_cache=False
        ).last_hidden_state
        logits = model.lm_head(hidden[:, :-1].flatten(0, 1)[counted])
    losses = nn.functional.cross_entropy(logits.float(), targets[counted], reduction="none")
    return (losses * weights[counted]).sum() / weights.sum()


def _checkpoint(model, optimizer, step: int, tokens: int, losses: list[float], context: Context) -> None:
    state = {"step": step, "tokens": tokens, "losses": losses}
    temporary = context.scratch / f"{_CHECKPOINT}.tmp"
    torch.save(state | {"model": model.state_dict(), "optimizer": optimizer.state_dict()}, temporary)
    os.replace(temporary, context.scratch / _CHECKPOINT)


def _resume(model, optimizer, context: Context) -> tuple[int, int, list[float]]:
    """Step, tokens and last losses of the checkpoint that a killed run left, loaded; zeros for a new run."""
    path = context.scratch / _CHECKPOINT
    if not path.exists():
        return 0, 0, []
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    context.log.forget_after(state["step"])
    context.log.info(f"resumed from step {state['step']}")
    return state["step"], state["tokens"], state["losses"]
