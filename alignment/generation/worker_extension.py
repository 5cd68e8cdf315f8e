"""Methods added to the vLLM server's worker (`--worker-extension-cls`), called over `collective_rpc`.

vLLM's own weight transfer needs GPUs. Here weights come as a safetensors file in a folder that trainer and server share.
Arguments and answers are what the server's HTTP route carries: strings in, a dictionary out; a mistake is told under `error`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from vllm.config import VllmConfig

SHAPE = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "tie_word_embeddings",
)


class SuiteWorkerExtension:
    """Mixed into vLLM's worker class, which brings the attributes declared here."""

    if TYPE_CHECKING:
        vllm_config: VllmConfig

        def reload_weights(self, *, weights_iterator: Any) -> None: ...
        def get_model(self) -> nn.Module: ...

    def describe_suite_server(self) -> dict[str, Any]:
        """What a client compares with its own model before it sends anything."""
        model, adapters = self.vllm_config.model_config, self.vllm_config.lora_config
        return {
            "shape": shape_of(model.hf_text_config),
            "precision": str(model.dtype).removeprefix("torch."),
            "adapter_rank": adapters.max_lora_rank if adapters else None,
            "weights_folder": self._weights_folder(),
        }

    def load_suite_weights(self, name: str, size: str) -> dict[str, Any]:
        """Replace the weights by those of file `name` in the shared folder, which must hold `size` bytes."""
        from safetensors import safe_open

        path = Path(self._weights_folder()) / Path(name).name  # a name, never a way out of the folder
        if not path.exists():
            return {"error": f"{path} does not exist on the server's machine"}
        if path.stat().st_size != int(size):
            return {"error": f"{path} holds {path.stat().st_size} bytes here, {size} were written"}
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            self.reload_weights(weights_iterator=((name, file.get_tensor(name)) for name in names))
        repack(self.get_model())
        return {"loaded": len(names)}

    def _weights_folder(self) -> str:
        return dict(self.vllm_config.additional_config)["weights_folder"]  # type: ignore[arg-type]


def shape_of(config: Any) -> dict[str, Any]:
    """What two text configs must agree on for one's weights to fit the other."""
    return {name: getattr(config, name, None) for name in SHAPE}


def repack(model: nn.Module) -> None:
    """Linear layers on CPU compute with a packed copy of their weight. `reload_weights` renews it, except where a head
    shares its weight with the embedding: left alone, that head would keep the old weights without a word."""
    for layer in model.modules():
        if (
            hasattr(layer, "cpu_linear")
            and isinstance(weight := getattr(layer, "weight", None), Tensor)
            and weight.numel()
        ):
            layer.quant_method.process_weights_after_loading(layer)  # type: ignore[operator, union-attr]
