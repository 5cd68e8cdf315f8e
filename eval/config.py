"""What a recipe says about measuring: the blocks `evaluation:` and `comparison:`. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from alignment.core.config import Config, DataRef, ModelRef, StageConfig

Role = Literal["target", "retained"]
Margin = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_MARGINS = {"acc": 0.05, "exact_match": 0.05, "gold": 0.05, "bits_per_byte": 0.05}


class TextTask(Config):
    """A task made from the recipe's own rows.

    bits_per_byte: log-likelihood of held-out texts (rows with `text`), lower is better.
    gold: the model answers each row's `prompt`; a gold scorer reads the answer; higher is better.
    """

    metric: Literal["bits_per_byte", "gold"]
    data: DataRef
    gold: str | None = Field(None, description="name of the gold scorer, for metric gold")
    max_new_tokens: int = Field(48, gt=0)
    temperature: float = Field(1.0, ge=0)
    limit: int | None = Field(None, gt=0, description="only the first so many documents")
    cluster: str | None = Field(None, description="a field of the rows: items that share its value share a source")


class EvaluateConfig(StageConfig):
    """One cell: one model on all tasks. The runner makes these from the `evaluation:` block."""

    kind: Literal["evaluate"] = "evaluate"
    model: ModelRef
    target: list[str] = []
    retained: list[str] = []
    tasks: dict[str, TextTask] = {}
    limit: int | None = Field(None, gt=0, description="only the first so many items of each task")
    batch_size: int = Field(64, gt=0)
    sampling_seed: int = 0

    def task_files(self) -> list[str]:
        """Tasks given as files of the user's own."""
        return [name for name in (*self.target, *self.retained) if name.endswith((".yaml", ".yml"))]


class Evaluation(Config):
    """`models`: stages to measure at every seed. Tasks are names of files under eval/tasks, of `tasks` below, or of lm-eval."""

    models: list[str]
    target: list[str] = []
    retained: list[str] = []
    tasks: dict[str, TextTask] = {}
    limit: int | None = Field(None, gt=0)
    batch_size: int = Field(64, gt=0)


class Comparison(Config):
    """contrasts: pairs [reference, new]. margin: per metric, the loss that counts as none (see eval/statistics); metrics that
    it leaves out keep the default."""

    contrasts: list[tuple[str, str]] = []
    margin: dict[str, Margin] = {}

    def margin_of(self, metric: str) -> float | None:
        """None for a metric that has no default either."""
        return self.margin.get(metric, _MARGINS.get(metric))
