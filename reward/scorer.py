"""Scores from a trained reward model: on token ids, in batches of similar length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignment.core.config import Precision
from alignment.generation.engine import Completion
from alignment.models.encoding import Encoded, length_batches
from alignment.models.reward_model import Normalisation, load_reward_model, pooling_of

_BATCH_TOKENS = {"cpu": 1024, "cuda": 16_384}  # on a CPU padding costs more than many small batches


class RewardScorer:
    """Normalised rewards of completions: PPO's scorer. The policy's token ids must be the reward model's."""

    def __init__(self, path: str | Path, precision: Precision = "fp32", batch_tokens: int | None = None) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = load_reward_model(path, precision).to(device)  # type: ignore[arg-type]
        self.normalisation = Normalisation.read(Path(path))
        self._batch_tokens = batch_tokens or _BATCH_TOKENS[device]

    def __call__(self, completions: Sequence[Completion], rows: Sequence[Mapping[str, Any]] = ()) -> Tensor:
        """[B] float32 on the CPU. `rows`, the prompts' data rows, are not needed to read an answer."""
        encoded = [
            Encoded(c.prompt_ids + c.response_ids, [False] * len(c.prompt_ids) + [True] * len(c.response_ids))
            for c in completions
        ]
        scores = raw_scores(self.model, encoded, self._batch_tokens)
        return (scores - self.normalisation.mean) / self.normalisation.std


@torch.inference_mode()
def raw_scores(model: Any, encoded: Sequence[Encoded], batch_tokens: int = _BATCH_TOKENS["cpu"]) -> Tensor:
    """[B] float32 on the CPU, in the order given: the head's output, not normalised. The model's mode is kept."""
    training = model.training
    model.eval()
    scores = torch.empty(len(encoded))
    for batch in length_batches([len(row.ids) for row in encoded], batch_tokens):
        inputs = collate([encoded[index] for index in batch], model)
        logits = model(**{name: tensor.to(model.device) for name, tensor in inputs.items()}).logits
        scores[batch] = logits.squeeze(-1).float().cpu()
    model.train(training)
    return scores


def collate(encoded: Sequence[Encoded], model: Any) -> dict[str, Tensor]:
    """Right-padded input_ids and attention_mask [B, T], with response_mask [B, T] where the model pools by it."""
    width, pad = max(len(row.ids) for row in encoded), model.config.get_text_config().pad_token_id
    tensors = {
        "input_ids": torch.tensor([row.ids + [pad] * (width - len(row.ids)) for row in encoded]),
        "attention_mask": torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in encoded]),
    }
    if pooling_of(model) == "mean":
        rows = [row.mask + [False] * (width - len(row.ids)) for row in encoded]
        tensors["response_mask"] = torch.tensor(rows)
    return tensors
