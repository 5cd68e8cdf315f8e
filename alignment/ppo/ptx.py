"""PPO-ptx: the stream of old texts whose language-model loss is lowered beside PPO's (Ouyang et al. 2022, section 3.5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignment.core.artifact import Artifact
from alignment.core.errors import DataError
from alignment.data.order import Endless
from alignment.data.rows import load_rows
from alignment.generation.engine import Completion
from alignment.ppo.config import PtxConfig


class PtxTexts:
    """Texts in an endless order that follows from the step alone, so a resumed run goes on where it was."""

    def __init__(self, config: PtxConfig, inputs: Mapping[str, Artifact], tokenizer: Any, seed: int) -> None:
        rows = load_rows(config.data, inputs.get("ptx.data"), ("text",), "ptx.data")
        ids = [tokenizer(row["text"])["input_ids"][: config.max_tokens] for row in rows]
        self._texts = [Completion(text[:1], text[1:], [], True) for text in ids if len(text) > 1]
        if not self._texts:
            raise DataError("ptx.data", "no text has two tokens", "texts to predict", "check the field `text`")
        self._order, self._batch_size = Endless(len(self._texts), seed), config.batch_size

    def batch(self, number: int) -> list[Completion]:
        """Batch `number`, counted from 0. A text is its first token, answered by the rest."""
        first = number * self._batch_size
        return [self._texts[self._order[place]] for place in range(first, first + self._batch_size)]
