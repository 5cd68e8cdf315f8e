"""What PPO needs from above: a judge of answers. `reward` implements it, the runner hands it in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from alignment.generation.engine import Completion

if TYPE_CHECKING:
    from torch import Tensor


class Scorer(Protocol):
    """Judges whole answers. `rows[b]` is the data row that prompt b came from."""

    def __call__(self, completions: Sequence[Completion], rows: Sequence[Mapping[str, Any]]) -> Tensor:
        """Scores [B], float32, already normalised: 0 is an average answer, 1 one deviation above."""
        ...
