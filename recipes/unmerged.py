"""Where a model may stand whose adapter is not part of its weights: it can be read, not changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from alignment.core.artifact import Artifact
from alignment.core.config import StageConfig
from alignment.core.errors import RecipeError
from alignment.generation.engine import resolve_engine
from alignment.models.layout import is_attached

if TYPE_CHECKING:
    from recipes.plan import Cell

_READERS = ("evaluate", "win_rate", "excerpts")  # of all that they are given
_READ = ("reference", "match_tokens")  # whatever the stage
_SAMPLERS = ("preferences", "best_of_n")


def require_readers(place: str, config: StageConfig, inputs: Mapping[str, Cell | Artifact]) -> None:
    """Raises RecipeError where such a model is to be trained further, made something else, or served by vLLM."""
    for role, source in inputs.items():
        if not _is_unmerged(source) or config.kind in _READERS or role in _READ or role.startswith("evaluate."):
            continue
        what = "this model's adapter cannot be merged into its weights"
        if config.kind not in _SAMPLERS:
            raise RecipeError(
                f"{place}.{role}",
                f"{what}, so a stage of kind {config.kind} cannot go on from it",
                "a model of plain weights; this one can be measured, sampled from and be a reference",
                "start from its base, or train it with an adapter that merges: lora, rslora, dora, ia3",
            )
        engine: Any = getattr(config, "engine", "auto")
        if resolve_engine(engine) != "hf":
            raise RecipeError(f"{place}.engine", f"{what}, so vLLM cannot serve it", "engine hf", "set engine: hf")


def _is_unmerged(source: Cell | Artifact) -> bool:
    if isinstance(source, Artifact):
        return source.kind == "model" and is_attached(source.path)
    peft = getattr(source.config, "peft", None)
    return peft is not None and not peft.merges
