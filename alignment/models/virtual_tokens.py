"""Prefix tuning, prompt tuning and P-tuning: trained positions before every text.

peft puts the embeddings of such positions into the sequence, which goes wrong, silently, wherever rows are padded on the left. Here
all three are what they are in mathematics: keys and values that each layer has cached before a text begins. Texts keep their
shape, logits and labels stay in place, and padding on either side changes nothing. The trained weights and the files are peft's own.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedModel

from alignment.core.errors import ModelError
from alignment.models.config import PeftConfig

NAME = "virtual_tokens"  # of the module within the trunk
_WEIGHTS = "adapter_model.safetensors"


class VirtualTokens(nn.Module):
    """The trained part: `encoder` writes a vector for each position. For a prefix that is the keys and values of all layers, else
    an embedding that the frozen model reads."""

    def __init__(self, config: Any, encoder: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.encoder: Any = encoder

    @property
    def count(self) -> int:
        return self.config.num_virtual_tokens

    def vectors(self) -> Tensor:
        """[positions, numbers of one]."""
        weight = self.encoder.embedding.weight
        if self.config.inference_mode:  # what P-tuning's network wrote in the end; the network itself is gone
            return weight
        return self.encoder(torch.arange(self.count, device=weight.device))

    def cache(self, trunk: Any, batch: int) -> Cache:
        """What the trunk would have cached after these positions, for each row of a batch."""
        dtype = trunk.get_input_embeddings().weight.dtype
        vectors = self.vectors().to(dtype)
        if self.config.peft_type == peft.PeftType.PREFIX_TUNING:
            cache: Any = DynamicCache(config=trunk.config)
            heads = self.config.num_attention_heads
            layers = vectors.view(1, self.count, self.config.num_layers, 2, heads, -1).permute(2, 3, 0, 4, 1, 5)
            for number, (keys, values) in enumerate(layers):
                cache.update(keys, values, number)
        else:  # `forward` itself, since calling the trunk would put the virtual tokens before themselves
            cache = trunk.forward(inputs_embeds=vectors[None], use_cache=True).past_key_values
        cache.batch_repeat_interleave(batch)
        return cache

    def save(self, folder: Path) -> None:
        """In peft's format."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"prompt_embeddings": self.vectors().detach().cpu().contiguous()}, folder / _WEIGHTS)
        training, self.config.inference_mode = self.config.inference_mode, True
        self.config.save_pretrained(str(folder))
        self.config.inference_mode = training


def add_virtual_tokens(model: PreTrainedModel, config: PeftConfig) -> None:
    """Fresh ones, drawn from the global random state, as trainable weights of `model`, whose own are left as they are.

    A prompt starts as embeddings of random words, a prefix as what the model caches of random words: far better starts than noise
    (Lester et al. 2021, section 3.2; Li and Liang 2021, section 7.4). Raises ModelError for a model that cannot have them.
    """
    embeddings: Any = model.get_input_embeddings()
    options: dict[str, Any] = {"task_type": "CAUSAL_LM", "num_virtual_tokens": config.virtual_tokens}
    options |= {"num_transformer_submodules": 1, "token_dim": embeddings.weight.shape[1]}
    if config.method == "prompt":
        made: Any = peft.PromptTuningConfig(**options, prompt_tuning_init=peft.PromptTuningInit.SAMPLE_VOCAB)
        encoder: nn.Module = peft.PromptEmbedding(made, embeddings)
    elif config.method == "ptuning":
        made = peft.PromptEncoderConfig(**options, encoder_hidden_size=options["token_dim"])
        encoder = peft.PromptEncoder(made)
    else:
        words = _cached_words(model, options["num_virtual_tokens"])
        layers, _, heads, count, size = words.shape
        options |= {"num_layers": layers, "num_attention_heads": heads, "token_dim": heads * size}
        made = peft.PrefixTuningConfig(**options)
        encoder = peft.PrefixEncoder(made)
        encoder.embedding.weight.data = words.permute(3, 0, 1, 2, 4).reshape(count, -1).float()
    _attach(model, VirtualTokens(made, encoder))


def load_virtual_tokens(model: PreTrainedModel, folder: Path) -> None:
    """Those that `VirtualTokens.save` or peft wrote, to be read only."""
    config: Any = peft.PeftConfig.from_pretrained(str(folder))
    vectors = load_file(folder / _WEIGHTS)["prompt_embeddings"]
    encoder = nn.Module()
    encoder.embedding = nn.Embedding.from_pretrained(vectors)
    config.inference_mode = True
    _attach(model, VirtualTokens(config, encoder))


def virtual_tokens(model: Any) -> VirtualTokens | None:
    """Those of a model, if it has any."""
    return next((part for part in model.modules() if isinstance(part, VirtualTokens)), None)


def _attach(model: PreTrainedModel, tokens: VirtualTokens) -> None:
    """Raises ModelError where layers see a window only: padding on the left would push the virtual tokens out of it."""
    config = model.config.get_text_config()
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        what = (
            f"its layers see {config.sliding_window} tokens at a time, from which padding would push the virtual ones"
        )
        raise ModelError(
            str(model.name_or_path), what, "layers that see the whole text", "use another peft.method, such as lora"
        )
    trunk: Any = model.get_decoder()
    trunk.add_module(NAME, tokens.to(model.device))
    trunk.register_forward_pre_hook(_begin, with_kwargs=True)


def _begin(trunk: Any, args: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Before every forward pass: a text that begins finds the virtual tokens cached; one that goes on has them in its cache."""
    tokens: VirtualTokens = trunk.virtual_tokens
    text = args[0] if args else inputs.get("input_ids")
    batch, width = (text if text is not None else inputs["inputs_embeds"]).shape[:2]
    mask, positions, cache = (inputs.get(name) for name in ("attention_mask", "position_ids", "past_key_values"))
    if positions is None and mask is not None and "position_ids" in inspect.signature(trunk.forward).parameters:
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -width:]
    if positions is not None:
        inputs["position_ids"] = positions + tokens.count
    if mask is not None:
        inputs["attention_mask"] = torch.cat([mask.new_ones(batch, tokens.count), mask], dim=1)
    if cache is None or not cache.get_seq_length():
        inputs["past_key_values"] = tokens.cache(trunk, batch)
    return args, inputs


@torch.no_grad()
def _cached_words(model: PreTrainedModel, count: int) -> Tensor:
    """[layers, 2, heads, count, head size]: keys and values that the model holds after random words."""
    vocabulary: Any = model.get_input_embeddings()
    words = torch.randint(vocabulary.num_embeddings, (1, count), device=model.device)
    cache = model(words, use_cache=True).past_key_values
    found = [torch.stack([layer.keys[0], layer.values[0]]) for layer in cache.layers]
    if len({layer.shape for layer in found}) > 1:
        what = "its layers hold keys and values of different shapes"
        raise ModelError(
            str(model.name_or_path), what, "layers of one shape", "use another peft.method, such as prompt"
        )
    return torch.stack(found)
