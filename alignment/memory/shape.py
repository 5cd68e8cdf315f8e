"""What of a language model decides how much memory it takes. Read from a folder's config.json and the headers of its weights: no torch,
and no weight is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from alignment.core.errors import ModelError
from alignment.models.layout import base_of

_LONGEST_HEADER = 100_000_000  # of a safetensors file
_IN_A_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.\d+\.(?!.*relative_attention_bias)")
_DROPOUTS = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop", "dropout_rate")  # of attention


@dataclass(frozen=True)
class Shape:
    """family: transformers' name for the architecture, T5's with a gated feed-forward apart. hidden, feed_forward, queries, keys: numbers
    of one token's state, inner state, queries of all heads, and keys. layers: of an encoder-decoder, pairs of one of each.
    weights: the sizes of each by name, tied ones once. context: tokens it can read; None = no limit is named.
    dropping_heads: those whose attention drops some of what it reads; 0 = none does."""

    family: str
    hidden: int
    feed_forward: int
    queries: int
    keys: int
    layers: int
    vocabulary: int
    context: int | None
    weights: Mapping[str, tuple[int, ...]]
    dropping_heads: int = 0

    @property
    def parameters(self) -> int:
        return sum(map(prod, self.weights.values()))

    @property
    def linear(self) -> dict[str, tuple[int, ...]]:
        """The matrices inside of layers: what is quantised, and where adapters sit. By the name of the layer that holds them."""
        return {
            name.removesuffix(".weight"): size
            for name, size in self.weights.items()
            if len(size) == 2 and _IN_A_LAYER.search(name)
        }


def shape_of(config: Mapping[str, Any], weights: Mapping[str, tuple[int, ...]]) -> Shape:
    """From a config.json, whose entries have other names in other families, and the sizes of the weights."""
    config = config.get("text_config") or config

    def entry(*names: str, default: int | None = None) -> int:
        found = next((config[name] for name in names if config.get(name) is not None), default)
        assert found is not None, f"none of {', '.join(names)} in config.json"
        return int(found)

    hidden = entry("hidden_size", "n_embd", "d_model", "dim")
    heads = entry("num_attention_heads", "n_head", "num_heads", "n_heads", "encoder_attention_heads")
    head = entry("head_dim", "d_kv", default=hidden // heads)
    layers = entry("num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers")
    gated = str(config.get("feed_forward_proj", "")).startswith("gated")
    return Shape(
        family=str(config.get("model_type", "")) + "-gated" * gated,
        hidden=hidden,
        feed_forward=entry(
            "intermediate_size", "ffn_dim", "n_inner", "hidden_dim", "d_ff", "encoder_ffn_dim", default=4 * hidden
        ),
        queries=heads * head,
        keys=entry("num_key_value_heads", default=heads) * head,
        layers=-(-(layers + entry("num_decoder_layers", "decoder_layers", default=layers)) // 2),
        vocabulary=entry("vocab_size"),
        context=config.get("max_position_embeddings") or config.get("n_positions"),
        weights=weights,
        dropping_heads=heads if any(config.get(name) for name in _DROPOUTS) else 0,
    )


def shape_in(folder: str | Path) -> Shape:
    """Of a model folder; of the base, where an adapter lies beside it. Raises ModelError for a folder that cannot be read."""
    base = base_of(folder)
    try:
        config = json.loads((base / "config.json").read_text())
        weights = {name: size for file in sorted(base.glob("*.safetensors")) for name, size in _header(file)}
        if not weights:
            raise ValueError("no weights")
        return shape_of(config, weights)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, AssertionError) as error:
        raise ModelError(
            str(folder), f"its sizes cannot be read: {error}", "config.json and safetensors", "mend it"
        ) from None


def _header(file: Path) -> Iterable[tuple[str, tuple[int, ...]]]:
    """Names and sizes of a safetensors file: eight bytes say how long the JSON is that follows them."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > _LONGEST_HEADER:
            raise ValueError(f"{file.name} is no safetensors file")
        header = json.loads(opened.read(length))
    sizes = {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    return [(name, size) for name, size in sizes.items() if not _is_buffer(name, size)]


def _is_buffer(name: str, size: tuple[int, ...]) -> bool:
    """Older files hold masks (1, 1, T, T) and positions beside the weights."""
    return size[:2] == (1, 1) or name.endswith(("masked_bias", "inv_freq", "position_ids"))


def llama_weights(
    vocabulary: int, hidden: int, feed_forward: int, layers: int, keys: int
) -> dict[str, tuple[int, ...]]:
    """Of a Llama with tied embeddings whose heads together are as wide as its state, such as the lab makes."""
    sizes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
    }
    for number in range(layers):
        one: dict[str, tuple[int, ...]] = {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (feed_forward, hidden),
            "mlp.up_proj": (feed_forward, hidden),
            "mlp.down_proj": (hidden, feed_forward),
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
        }
        sizes |= {f"model.layers.{number}.{name}.weight": size for name, size in one.items()}
    return sizes
