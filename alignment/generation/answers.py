"""What a completion says, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignment.generation.engine import Completion


def answer_text(tokenizer: Any, completion: Completion, prompt: str | Sequence[Any]) -> str:
    """What a completion says. After plain text it is the rest of the whole, so that its first space is kept."""
    if not isinstance(prompt, str):
        return tokenizer.decode(completion.response_ids, skip_special_tokens=True)
    whole = tokenizer.decode(completion.prompt_ids + completion.response_ids, skip_special_tokens=True)
    return whole[len(tokenizer.decode(completion.prompt_ids, skip_special_tokens=True)) :]
