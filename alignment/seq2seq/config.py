"""Fine-tuning of encoder-decoders such as T5: what a recipe can say about it. No torch here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from alignment.models.config import SupervisedConfig


class Seq2SeqConfig(SupervisedConfig):
    """An encoder-decoder (T5, BART) on rows of `prompt` and `completion`, both text: the encoder reads the prompt, the loss is on the
    answer and its EOS. Measured on the validation rows: loss a token, and of greedy answers exact match and ROUGE.

    max_length: tokens of a prompt. T5's authors name the task at the beginning of a prompt, such as `summarize: `.
    """

    kind: Literal["seq2seq"] = "seq2seq"
    learning_rate: float = Field(3e-4, gt=0)
    max_answer_length: int | None = Field(None, gt=1, description="tokens of an answer; None = as of a prompt")
    max_new_tokens: int = Field(64, gt=0, description="of the answers that are measured")

    @model_validator(mode="after")
    def _for_encoder_decoders(self) -> Seq2SeqConfig:
        if self.peft is not None and not self.peft.merges:
            raise ValueError("peft.method: an encoder-decoder goes with lora, rslora, dora, ia3")
        if self.evaluate is not None:
            raise ValueError("evaluate: its tasks are for language models; use validation and evaluate_every")
        return self
