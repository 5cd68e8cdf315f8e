"""Reward models: a language model's trunk with a linear read-out of its last token, or of the mean over the answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from alignment.core.config import Precision
from alignment.core.errors import ModelError
from alignment.models.load import from_pretrained, read_config
from alignment.models.precision import DTYPES

Pooling = Literal["last", "mean"]
NORMALISATION_FILE = "reward_normalisation.json"


class MeanRewardConfig(PreTrainedConfig):
    """`backbone`: configuration of the trunk."""

    model_type = "mean_reward"
    sub_configs: ClassVar[dict[str, Any]] = {"backbone": AutoConfig}

    def __init__(self, backbone: PreTrainedConfig | dict[str, Any] | None = None, **options: Any) -> None:
        if isinstance(backbone, dict):
            backbone = AutoConfig.for_model(**backbone)
        self.backbone = backbone
        super().__init__(**options)

    def get_text_config(self, *_: Any, **__: Any) -> PreTrainedConfig:
        return self.backbone if self.backbone is not None else self


class MeanRewardModel(PreTrainedModel):
    """score = w . mean of the trunk's last hidden states over the answer's tokens.

    A small model's last hidden state has not learned to sum up an answer, so its mean is the better read-out.
    """

    config_class = MeanRewardConfig
    base_model_prefix = "model"
    _supports_sdpa = True
    supports_gradient_checkpointing = True

    def __init__(self, config: MeanRewardConfig) -> None:
        super().__init__(config)
        assert config.backbone is not None
        self.model = AutoModel.from_config(config.backbone)
        self.score = nn.Linear(config.backbone.hidden_size, 1, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        response_mask: Tensor | None = None,
        use_cache: bool | None = None,
        **options: Any,
    ) -> SequenceClassifierOutput:
        """logits [B, 1]. response_mask [B, T]: True = counts; without it, all of `attention_mask` counts."""
        hidden = self.model(input_ids, attention_mask=attention_mask, use_cache=False, **options).last_hidden_state
        mask = response_mask if response_mask is not None else attention_mask
        mask = torch.ones_like(input_ids) if mask is None else mask
        return SequenceClassifierOutput(logits=self.score(masked_mean(hidden, mask)))  # type: ignore[arg-type]


AutoConfig.register("mean_reward", MeanRewardConfig)
AutoModelForSequenceClassification.register(MeanRewardConfig, MeanRewardModel)


def masked_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """[B, T, H], [B, T] -> [B, H]: mean over the tokens whose mask is set; zero where none is."""
    weights = mask.to(hidden.dtype).unsqueeze(-1)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)


def new_reward_model(
    base_path: str | Path, pooling: Pooling = "last", precision: Precision = "fp32", seed: int = 0
) -> PreTrainedModel:
    """The trunk of a language model under a fresh head without bias.

    The head is drawn from `seed` alone, with deviation 1 / sqrt(hidden + 1) (Huang et al. 2024, "The N+ implementation
    details").
    """
    config = read_config(base_path)
    if pooling == "last":
        config.num_labels = 1
        model = _without_key_report(base_path, config, DTYPES[precision])
    else:
        trunk = from_pretrained(AutoModel, base_path, dtype=DTYPES[precision])
        trunk.config.name_or_path = ""
        names = ("pad_token_id", "eos_token_id", "bos_token_id")
        ids = {name: getattr(trunk.config, name, None) for name in names}
        wrapped = MeanRewardConfig(backbone=trunk.config, num_labels=1, dtype=trunk.config.dtype, **ids)
        model = MeanRewardModel(wrapped).to(dtype=DTYPES[precision])  # type: ignore[call-overload]
        model.model.load_state_dict(trunk.state_dict())
    draw_head(model.score, seed)  # type: ignore[arg-type]
    return model.train()


def draw_head(head: nn.Linear, seed: int) -> None:
    """Fills a scalar head with N(0, 1 / (hidden + 1)), without touching the global random state."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(head.weight.shape, generator=generator) / (head.in_features + 1) ** 0.5
    with torch.no_grad():
        head.weight.copy_(weights)


def load_reward_model(path: str | Path, precision: Precision = "fp32") -> PreTrainedModel:
    """A trained reward model, in evaluation state. `.base_model` is its trunk, `.score` its head.

    Raises ModelError if the folder holds no classifier with one output.
    """
    config = read_config(path)
    architecture = (config.architectures or ["unknown"])[0]
    if not architecture.endswith(("ForSequenceClassification", MeanRewardModel.__name__)) or config.num_labels != 1:
        raise ModelError(
            str(path),
            f"a {architecture} with {config.num_labels} outputs is no reward model",
            "a sequence classifier with one output",
            "train one with a stage of kind reward",
        )
    return from_pretrained(AutoModelForSequenceClassification, path, dtype=DTYPES[precision]).eval()


def separate_pad(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Gives model and tokenizer a pad token that is not EOS, enlarging the vocabulary if no special token is free.

    The last-token head finds the end of an answer as the last token that is not the pad: were the pad EOS, it would
    read the token before.
    """
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        special = [token for token in tokenizer.all_special_tokens if token != tokenizer.eos_token]
        if special:
            tokenizer.pad_token = special[0]
        else:
            tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
            if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:  # type: ignore[operator]
                model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id


@dataclass(frozen=True)
class Normalisation:
    """(score - mean) / std: the answers it was measured on have mean 0 and deviation 1."""

    mean: float
    std: float

    @classmethod
    def of(cls, scores: Tensor) -> Normalisation:
        return cls(scores.mean().item(), scores.std(correction=0).clamp(min=1e-6).item())

    @classmethod
    def read(cls, folder: Path) -> Normalisation:
        """Of a reward model's folder. Raises ModelError if it holds none."""
        path = folder / NORMALISATION_FILE
        if not path.exists():
            raise ModelError(
                str(folder),
                f"no {NORMALISATION_FILE} beside the reward model",
                'its mean and deviation on reference answers, {"mean": .., "std": ..}',
                "train it with a stage of kind reward, or write the file (0 and 1 leave scores as they are)",
            )
        saved = json.loads(path.read_text())
        return cls(saved["mean"], saved["std"])

    def write(self, folder: Path) -> None:
        (folder / NORMALISATION_FILE).write_text(json.dumps({"mean": self.mean, "std": self.std}))


def pooling_of(model: PreTrainedModel) -> Pooling:
    return "mean" if isinstance(model, MeanRewardModel) else "last"


def _without_key_report(base_path: str | Path, config: Any, dtype: torch.dtype) -> PreTrainedModel:
    """A classifier from a language model's weights; that the head is new and the LM head unused needs no warning."""
    from trl.trainer.reward_trainer import suppress_seqcls_warning

    with suppress_seqcls_warning():
        return from_pretrained(AutoModelForSequenceClassification, base_path, config=config, dtype=dtype)
