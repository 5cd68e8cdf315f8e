"""How the weights of a model are held: their precision, and in few bits through bitsandbytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from alignment.core.config import Precision
from alignment.core.errors import ModelError
from alignment.models.config import QuantizationConfig

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


def held_as(precision: Precision, quantization: QuantizationConfig | None, keep: Sequence[str] = ()) -> dict[str, Any]:
    """`from_pretrained`'s options for how weights are held. keep: parts that are not quantised; none = what transformers knows as
    an output head."""
    if quantization is None:
        return {"dtype": DTYPES[precision]}
    return {
        "dtype": DTYPES[quantization.rest],
        "quantization_config": _bitsandbytes(quantization, DTYPES[precision], keep),
    }


@contextmanager
def linear_layers_plain() -> Iterator[None]:
    """transformers puts layers of few bits in the place of `nn.Linear` itself only, and leaves Falcon's own kind of it, which computes
    the same, as it is: without an error."""
    from transformers.models.falcon import modeling_falcon as falcon

    own = falcon.FalconLinear
    falcon.FalconLinear = torch.nn.Linear  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        falcon.FalconLinear = own


def settle_few_bits(model: Any) -> None:
    """What a model needs after it was loaded in few bits. Raises ModelError where most of its weights are not."""
    if getattr(model, "hf_quantizer", None) is not None:
        _require_few_bits(model)
        _forbid_repacking(model)
        _let_go_of_file(model)


def size_of(parameter: torch.Tensor) -> int:
    """Its numbers; 4-bit weights count as what they stand for."""
    state = getattr(parameter, "quant_state", None)
    return state.shape.numel() if state is not None else parameter.numel()


def _require_few_bits(model: Any) -> None:
    """Raises ModelError where more weights than not stayed as they were, embeddings and output head aside: transformers says nothing."""
    aside = {
        id(getattr(part, "weight", None)) for part in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    few = whole = 0
    for parameter in model.parameters():
        if not parameter.dtype.is_floating_point:
            few += size_of(parameter)
        elif parameter.dim() > 1 and id(parameter) not in aside:
            whole += parameter.numel()
    if whole > few:
        what = f"{whole:,} of {whole + few:,} weights cannot be held in few bits: their layers are no plain linear ones"
        raise ModelError(
            str(model.name_or_path), what, "a model of linear layers", "drop quantization, or use another model"
        )


def _forbid_repacking(model: torch.nn.Module) -> None:
    """Keep 4-bit layers from repacking their weights for AVX512-BF16 processors at the first evaluation.

    bitsandbytes 0.50 never packs them back, and every gradient after that is wrong, silently.
    """
    for part in model.modules():
        if type(part).__name__ == "Linear4bit":
            part.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def _let_go_of_file(model: torch.nn.Module) -> None:
    """Copy the weights that were left as they are out of the file they were read from.

    They are views of the mapped file: while one of them lives, the pages of all that was quantised stay in memory too.
    """
    for parameter in model.parameters():
        if parameter.dtype.is_floating_point and parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()


def _bitsandbytes(quantization: QuantizationConfig, compute_dtype: torch.dtype, keep: Sequence[str]) -> Any:
    from transformers import BitsAndBytesConfig

    if quantization.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(keep) or None)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
        llm_int8_skip_modules=list(keep) or None,  # whatever its name, for 4 bits too
    )
