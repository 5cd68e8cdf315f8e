"""The words of the lab's world, one token each. No torch, no tokenizer library."""

from __future__ import annotations

import re
from functools import cache

from alignment.lab import corpus, service, skills, world

PAD, UNKNOWN, END, USER, ASSISTANT = "<pad>", "<unk>", "<|end|>", "<|user|>", "<|assistant|>"
SPECIAL = (PAD, UNKNOWN, END, USER, ASSISTANT)
MAX_LENGTH = 256
_WORD = re.compile(r"[A-Za-z]+|\d|[^\w\s]")


@cache
def vocabulary() -> dict[str, int]:
    """Every word of the world, in alphabetical order after the special tokens: the same whatever was sampled."""
    templates = [*skills.TEMPLATES, *service.TEMPLATES, *corpus.TEMPLATES, *world.WORDS]
    for attribute in world.ATTRIBUTES:
        templates += [*attribute.statements, *attribute.questions]
    text = re.sub(r"{\w+}", " ", " ".join(templates))
    words = sorted({*_WORD.findall(text), *"0123456789"})
    return {word: index for index, word in enumerate([*SPECIAL, *words])}


def count_tokens(text: str) -> int:
    """One for each word, digit and mark."""
    return len(_WORD.findall(text))
