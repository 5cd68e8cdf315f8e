"""From a stage's configuration to what it holds in memory at once. No torch: `align check` asks before, the stage itself when it starts."""

from __future__ import annotations

from typing import Any

from alignment.memory.adapters import adapter_weights
from alignment.memory.estimate import Memory, Training, estimate, held_activations
from alignment.memory.shape import Shape

TRAINED = ("sft", "classify", "seq2seq", "dpo", "kto", "grpo", "rloo", "reward", "ppo")
_WITH_DROPOUT = ("sft", "classify", "seq2seq")
_FP32, _BF16 = 4, 2


def training_of(config: Any, shape: Shape, longest: int) -> Training:
    """Of a stage of one of the kinds in `TRAINED`. longest: tokens of its longest row; of prompts, where it samples the answers.

    An encoder-decoder is counted as if each layer of a pair had half of a row's tokens, prompt and answer, and each of these read
    all of the row. A classifier's head is not counted, nor that a folder's head for another task is left out."""
    if config.kind in ("grpo", "rloo", "ppo"):
        longest += config.rollout.max_new_tokens
    longest = min(length for length in (longest, token_limit(config, shape)) if length)
    if config.kind == "reward":
        return Training(shape, 2 * config.batch_size * longest, row=longest, precision=config.precision, head=False)
    common = {"shape": shape, "peft": config.peft, "quantization": config.quantization}
    apart = config.peft is not None and config.peft.merges  # the frozen model can then be had without the adapter
    if config.kind == "ppo":
        tokens = min(config.minibatch_size * longest, config.tokens_per_pass)
        precision = "fp32" if config.precision == "fp32" else "bf16"
        return Training(**common, tokens=tokens, precision=precision, engine_tokens=config.rollout.batch_size * longest)
    common |= {"freeze": config.freeze, "precision": config.precision, "row": longest}
    common |= {"dropout": config.kind in _WITH_DROPOUT}
    if config.kind in ("classify", "seq2seq"):
        return Training(**common, tokens=config.batch_size * longest, head=config.kind == "seq2seq")
    if config.kind in ("grpo", "rloo"):
        references = 1 + (config.beta > 0 and not apart)  # the reward model is one
        engine = config.rollout.batch_size * longest
        return Training(**common, tokens=config.minibatch_size * longest, references=references, engine_tokens=engine)
    anchor = config.anchor.method if config.anchor is not None else None
    anchors = {"l2": 1, "ewc": 2}.get(anchor or "", 0)
    if config.kind == "sft":
        references, tokens = int(anchor == "kl" and not apart), config.batch_size * longest
        common |= {"row": tokens} if config.packing else {}  # packed sequences are laid end to end
        return Training(**common, tokens=tokens, references=references, anchors=anchors)
    sides = 2 if config.kind == "dpo" else 1
    references = int(config.reference is not None or not apart)
    return Training(**common, tokens=sides * config.batch_size * longest, references=references, anchors=anchors)


def token_limit(config: Any, shape: Shape) -> int | None:
    """Tokens of a row that a stage takes at most, as far as it is said."""
    most = getattr(config, "max_length", None)
    if config.kind == "seq2seq":  # for prompt and answer each; T5 names positions, but has none
        return most and most + (config.max_answer_length or most)
    return min((length for length in (most, shape.context) if length), default=None)


def memory_of(config: Any, training: Training) -> Memory:
    return _ppo(config, training) if config.kind == "ppo" else estimate(training)


def _ppo(config: Any, training: Training) -> Memory:
    """The models of PPO's arrangement (alignment/ppo/arrangements.py). In bf16 the optimiser holds fp32 weights and gradients too."""
    shape, alone = training.shape, estimate(training)
    read = shape.parameters * (_FP32 if training.precision == "fp32" else _BF16)
    if config.peft is not None:
        adapters = adapter_weights(shape, config.peft) * (2 if config.arrangement == "shared_base" else 1)
        one, models = adapters, 0
        weights = alone.parts["weights"] + (adapters - alone.trainable) * _FP32
    else:
        models = 2 if config.arrangement == "separate" else 1
        one = models * shape.parameters
        weights = one * (_BF16 if config.precision == "bf16" else _FP32)
    masters = 2 * _FP32 * one if config.precision == "bf16" and models else 0
    copies = 1 + (models > 0)  # the reward model, and the reference where it is no adapter less
    parts = {
        "weights": weights,
        "gradients": one * (_BF16 if masters else _FP32),
        "optimiser": 2 * _FP32 * one + masters,
        "activations": held_activations(training) * (2 if config.arrangement == "separate" else 1),
        "references": copies * read,
        "engine": alone.parts["engine"],
        "libraries": alone.parts["libraries"],
    }
    total = shape.parameters * max(1, models) + (one if not models else 0)
    return Memory(one, total, parts, alone.merging)
