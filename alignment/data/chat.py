"""Prompts as token ids. A prompt is plain text, or a list of chat messages rendered by the tokenizer's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignment.core.errors import ModelError


def prompt_ids(tokenizer: Any, prompt: str | Sequence[dict[str, str]]) -> list[int]:
    """Token ids of a prompt, ending where the answer begins. Raises ModelError if messages meet no chat template."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    require_chat_template(tokenizer)
    return list(tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, return_dict=True)["input_ids"])


def require_chat_template(tokenizer: Any) -> None:
    if tokenizer.chat_template is None:
        raise ModelError(
            tokenizer.name_or_path,
            "the data holds chat messages, but this tokenizer has no chat template",
            "a tokenizer with a chat template, or prompts as plain text",
            "use an instruction-tuned model's tokenizer",
        )
