"""The one place that loads and saves language models, with what is frozen in them and their adapters, and the traps of each."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from alignment.core.config import Precision
from alignment.core.errors import ModelError
from alignment.models.adapters import add_adapter, freeze_weights
from alignment.models.attached import has_attached, load_attached, positions_taken, save_attached
from alignment.models.config import FreezeConfig, PeftConfig, QuantizationConfig
from alignment.models.layout import ADAPTER_FOLDER, base_of, is_attached, positions_taken_in
from alignment.models.precision import held_as, linear_layers_plain, settle_few_bits, size_of

_logger = logging.getLogger(__name__)
transformers_logging.disable_progress_bar()  # a bar per loaded or saved file would flood a cell's log


def load_tokenizer(path: str | Path, generates: bool = True) -> PreTrainedTokenizerBase:
    """A model folder's tokenizer, sure to have a pad token and, if the model generates, an EOS. A missing pad becomes EOS, and the
    log says so.

    Padding side is left as it is: who generates sets it. Raises ModelError if there is no usable tokenizer.
    """
    _require_folder(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            str(path),
            f"no usable tokenizer: {str(error).splitlines()[0]}",
            "tokenizer.json and tokenizer_config.json beside the weights",
            "copy the tokenizer's files into the folder",
        ) from None
    if tokenizer.eos_token_id is None and (generates or tokenizer.pad_token_id is None):
        raise ModelError(
            str(path), "the tokenizer has no EOS token", "an EOS token: it ends answers", "set eos_token in its config"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        _logger.warning("%s: the tokenizer has no pad token; padding with EOS %r", path, tokenizer.eos_token)
    return tokenizer


def load_causal_lm(
    path: str | Path,
    precision: Precision = "fp32",
    peft: PeftConfig | None = None,
    quantization: QuantizationConfig | None = None,
    freeze: FreezeConfig | None = None,
    dropout: bool = True,
    seed: int = 0,
) -> PreTrainedModel | Any:
    """A language model in training state, from a folder of safetensors; a `PeftModel` when `peft` names a kind that merges.

    precision: dtype of the weights held (adapters are fp32 in any case), or that quantised ones are multiplied in.
    dropout: False turns every dropout off, as PPO needs. seed: of a fresh adapter's weights.
    Raises ModelError for a missing folder, a folder that holds no causal model, weights that are not safetensors, or an adapter
    that is not part of the weights.
    """
    if is_attached(path):
        raise ModelError(
            str(path),
            "its adapter is not part of the weights: this model can be measured, sampled from and held against, not changed",
            "a model of plain weights",
            "start from its base, or train it with an adapter that merges: lora, rslora, dora, ia3",
        )
    config = read_causal_config(path)
    model = from_pretrained(AutoModelForCausalLM, path, config=config, **held_as(precision, quantization))
    model = made_trainable(model, peft, freeze, seed)
    if not dropout:
        turn_dropout_off(model)
    return model.train()


def made_trainable(
    model: Any,
    peft: PeftConfig | None,
    freeze: FreezeConfig | None,
    seed: int,
    task: str = "CAUSAL_LM",
    heads: Sequence[str] = (),
) -> Any:
    """A loaded model as it is trained: some of its weights frozen, or all under a fresh adapter (task and heads as there)."""
    settle_few_bits(model)
    if freeze is not None:
        freeze_weights(model, freeze)
    return add_adapter(model, peft, seed, task, heads) if peft is not None else model


def load_to_read(path: str | Path, precision: Precision = "fp32") -> PreTrainedModel:
    """A language model in evaluation state, for whoever measures it, samples from it or holds another one against it: also one whose
    adapter is not part of the weights. Raises ModelError as `load_causal_lm` does."""
    model: Any = load_causal_lm(base_of(path), precision, dropout=False)
    if is_attached(path):
        load_attached(model, Path(path))
    return model.eval()


def save_model(model: PreTrainedModel | Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a plain Hugging Face folder of safetensors.

    An adapter goes to `adapter/`, and is merged into the unquantised base (in fp32, then cast to the dtype the base has
    on disk): merging into quantised weights would change the outputs. One that cannot be merged has its base beside it.
    """
    from peft import PeftModel

    if has_attached(model):
        save_attached(model, folder)
        tokenizer.save_pretrained(folder)
        return
    if isinstance(model, PeftModel):
        active = ["default"]  # others, such as a critic's, are no part of the language model
        model.save_pretrained(str(folder / ADAPTER_FOLDER), selected_adapters=active, safe_serialization=True)
        _give_back_freed_memory()
        model = merged(model, folder / ADAPTER_FOLDER)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def merged(model: Any, adapter: Path) -> PreTrainedModel:
    """The base of a `PeftModel`, read anew from its folder, with the saved adapter merged in."""
    from peft import PeftModel

    trained = model.base_model.model
    dtype = read_config(trained.name_or_path).dtype or torch.float32
    config = deepcopy(trained.config)  # with a classifier's labels
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    heads = _modules_to_save(model)
    options: dict[str, Any] = {"ignore_mismatched_sizes": True} if heads else {}  # a head for other labels goes anyway
    base = from_pretrained(type(trained), trained.name_or_path, config=config, dtype=torch.float32, **options)
    adapted: Any = PeftModel.from_pretrained(base, str(adapter))
    for name, part in _modules_to_save(adapted).items():  # peft's ia3 cannot unload a head of several layers
        parent, _, child = name.rpartition(".")
        setattr(adapted.get_submodule(parent), child, part.modules_to_save["default"])
    return adapted.merge_and_unload().to(dtype)


def _give_back_freed_memory() -> None:
    """glibc keeps what a training has freed, and the base that is read for merging would come on top of it."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # other systems give back by themselves
        ctypes.CDLL(None).malloc_trim(0)


def _modules_to_save(model: Any) -> dict[str, Any]:
    """By name: the parts that were trained whole beside the adapter."""
    from peft.utils import ModulesToSaveWrapper

    return {name: part for name, part in model.named_modules() if isinstance(part, ModulesToSaveWrapper)}


def read_config(path: str | Path) -> Any:
    """The config.json of a model folder. Raises ModelError if there is none or its kind of model is unknown."""
    _require_folder(path)
    path = base_of(path)
    if not (Path(path) / "config.json").exists():
        raise ModelError(
            str(path), "no config.json in this folder", "a model in Hugging Face format", "point to the model's folder"
        )
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            str(path),
            f"config.json: {str(error).splitlines()[0]}",
            "a kind of model that transformers knows (code inside model folders is never run)",
            "use another model",
        ) from None


def read_causal_config(path: str | Path) -> Any:
    """The config.json of a model that generates text. Raises ModelError as `read_config` does, and for other models."""
    config = read_config(path)
    heads = config.architectures or [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type, "")]
    if not any(name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() for name in heads):
        raise ModelError(
            str(path),
            f"{', '.join(heads)} (a model of type {config.model_type!r}) does not generate text",
            "a causal language model",
            "refer to another model or stage",
        )
    return config


def from_pretrained(auto_class: Any, path: str | Path, **options: Any) -> Any:
    """`auto_class.from_pretrained` on local safetensors only. Raises ModelError if they are missing or broken."""
    layers = linear_layers_plain() if "quantization_config" in options else contextlib.nullcontext()
    try:
        with layers:
            return auto_class.from_pretrained(path, use_safetensors=True, trust_remote_code=False, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            str(path),
            f"cannot load the weights: {str(error).splitlines()[0]}",
            "model.safetensors (or its shards) that fit config.json",
            "convert pickled weights to safetensors, or fetch the model again",
        ) from error


def turn_dropout_off(model: torch.nn.Module) -> None:
    """Sets every dropout of the model to 0: modules, and the rates that attention layers keep as plain numbers."""
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        for name in ("attention_dropout", "dropout", "activation_dropout"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)


def parameter_counts(model: torch.nn.Module) -> dict[str, int]:
    """`trainable_parameters` and `parameters`; 4-bit weights count as what they stand for."""
    counts = {"trainable_parameters": 0, "parameters": 0}
    for parameter in model.parameters():
        counts["parameters"] += size_of(parameter)
        counts["trainable_parameters"] += size_of(parameter) * parameter.requires_grad
    return counts


def context_length(model: Any) -> int | None:
    """How many tokens the model can read, if its config says so."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return limit and limit - positions_taken(model)


def context_of(path: str | Path) -> int | None:
    """How many tokens the model of that folder can read, if its config says so."""
    limit = getattr(read_config(path).get_text_config(), "max_position_embeddings", None)
    return limit and limit - positions_taken_in(path)


def token_limit(model: Any, tokenizer: Any, wanted: int | None) -> int:
    """The most tokens of a text: what is wanted, or what the tokenizer says, within what the model's positions allow. RoBERTa's
    positions begin after that of the pad; T5 has none, and its tokenizer's limit is a custom."""
    positions = context_length(model)
    named = (part for name, part in model.named_modules() if name.endswith("position_embeddings"))
    if positions and (first := getattr(next(named, None), "padding_idx", None)) is not None:
        positions -= first + 1
    allowed = min(positions, tokenizer.model_max_length) if positions else None
    return min(length for length in (wanted or tokenizer.model_max_length, allowed, 1 << 30) if length)


def _require_folder(path: str | Path) -> None:
    if not Path(path).is_dir():
        raise ModelError(str(path), "no such model folder", "a folder in Hugging Face format", "correct the path")
