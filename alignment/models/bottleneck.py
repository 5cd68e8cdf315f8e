"""Bottleneck adapters (Houlsby et al. 2019): small networks inside each layer of a frozen model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from alignment.core.errors import ModelError
from alignment.models.config import PeftConfig

NAME = "bottleneck"  # of the module within the layer that it stands behind
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# the last linear layer of attention and of feed-forward, as Llama and its kin, GPT-2, OPT, and GPT-NeoX and Falcon call them
_OUTPUTS = ("o_proj", "down_proj", "c_proj", "out_proj", "fc2", "dense", "dense_4h_to_h")


class Bottleneck(nn.Module):
    """h + up(gelu(down(h))), in fp32 whatever h is in. `up` starts at 0, so that a fresh one changes nothing."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(size, width), nn.Linear(width, size)
        nn.init.normal_(self.down.weight, std=size**-0.5)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., size] -> [..., size]."""
        change = self.up(nn.functional.gelu(self.down(hidden.to(self.down.weight.dtype))))
        return hidden + change.to(hidden.dtype)


def add_bottlenecks(model: PreTrainedModel, config: PeftConfig) -> None:
    """Fresh ones, drawn from the global random state, as trainable weights of `model`, whose own are left as they are.

    Raises ModelError where none of the model's layers is meant.
    """
    names = _OUTPUTS if config.target_modules == "all-linear" else tuple(config.target_modules)
    linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear | Conv1D)}
    head = model.get_output_embeddings()
    linear = {name: layer for name, layer in linear.items() if layer is not head}
    met = {name: [layer for layer in linear if name in (layer, layer.split(".")[-1])] for name in names}
    chosen = [name for name in linear if any(name in layers for layers in met.values())]
    missing = [name for name, layers in met.items() if not layers] if config.target_modules != "all-linear" else []
    if not chosen or missing:
        known = sorted({name.split(".")[-1] for name in linear})
        raise ModelError(
            str(model.name_or_path),
            f"no layer is called {', '.join(missing or names)}",
            f"some of {', '.join(known)}: the last ones of attention and feed-forward",
            "name them in peft.target_modules",
        )
    assert config.width is not None
    _attach(model, chosen, config.width)


def load_bottlenecks(model: PreTrainedModel, folder: Path) -> None:
    """Those that `save_bottlenecks` wrote, to be read only."""
    config, weights = json.loads((folder / _CONFIG).read_text()), load_file(folder / _WEIGHTS)
    _attach(model, config["layers"], config["width"])
    for name in config["layers"]:
        bottleneck: Any = model.get_submodule(f"{name}.{NAME}")
        bottleneck.load_state_dict({key: weights[f"{name}.{key}"] for key in bottleneck.state_dict()})
        bottleneck.requires_grad_(False)


def save_bottlenecks(model: PreTrainedModel, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    found = bottlenecks(model)
    weights = {f"{name}.{key}": w.cpu() for name, one in found.items() for key, w in one.state_dict().items()}
    width = next(iter(found.values())).down.out_features
    save_file(weights, folder / _WEIGHTS)
    (folder / _CONFIG).write_text(json.dumps({"method": "bottleneck", "width": width, "layers": list(found)}, indent=1))


def bottlenecks(model: nn.Module) -> dict[str, Bottleneck]:
    """By the name of the layer that each stands behind."""
    found = {name: part for name, part in model.named_modules() if isinstance(part, Bottleneck)}
    return {name.removesuffix(f".{NAME}"): part for name, part in found.items()}


def _attach(model: PreTrainedModel, layers: list[str], width: int) -> None:
    for name in layers:
        layer = model.get_submodule(name)
        size = layer.nf if isinstance(layer, Conv1D) else layer.out_features
        layer.add_module(NAME, Bottleneck(size, width).to(model.device))  # type: ignore[arg-type]
        layer.register_forward_hook(_through)


def _through(layer: Any, _: Any, output: Tensor) -> Tensor:
    return layer.bottleneck(output)
