"""Where a response ends: at the first end-of-sequence token **of the response**, or at the length limit."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any


def eos_ids(model_path: Path) -> tuple[int, ...]:
    """All token ids that end a response of this model: those of its generation config, and the tokenizer's own.

    Never decided by what a prompt holds: models exist whose BOS is also their EOS, or whose EOS is a list.
    """
    from alignment.models.layout import base_of
    from alignment.models.load import load_tokenizer

    base = base_of(model_path)
    named = _eos_of(base / "generation_config.json") or _eos_of(base / "config.json")
    tokenizer: Any = load_tokenizer(model_path)
    return tuple(sorted({*named, tokenizer.eos_token_id}))


def cut_at_eos(response_ids: Sequence[int], eos: Collection[int]) -> tuple[list[int], bool]:
    """The response up to and with its first EOS, and whether it has one."""
    for position, token in enumerate(response_ids):
        if token in eos:
            return list(response_ids[: position + 1]), True
    return list(response_ids), False


def _eos_of(config: Path) -> set[int]:
    if not config.exists():
        return set()
    named = json.loads(config.read_text()).get("eos_token_id")
    return set() if named is None else set(named) if isinstance(named, list) else {named}
