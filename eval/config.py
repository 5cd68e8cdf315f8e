"""What a recipe says about measuring: the blocks `evaluation:` and `comparison:`. No torch here."""

from __future__ import annotations

from operator import not_
from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from alignment.core.config import Config, DataRef, ModelRef, StageConfig
from eval.task_config import Asking, ChoicesTask, ExactTask, LabelsTask, LastWordTask, PairsTask, base_name
from eval.win_config import WinRate

Role = Literal["target", "retained", "extra"]
ROLES: tuple[Role, ...] = get_args(Role)
InputKind = Literal["target", "retained"]
Margin = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_MARGINS = {"acc": 0.05, "exact_match": 0.05, "gold": 0.05, "bits_per_byte": 0.05, "pass@1": 0.05}
_MARGINS |= {"prompt_level_strict_acc": 0.05, "pct_stereotype": 0.05}


class TextTask(Config):
    """A task made from the recipe's own rows.

    bits_per_byte: log-likelihood of held-out texts (rows with `text`), or of held-out answers given their prompts (rows with
    `prompt` and `completion`); lower is better.
    gold: the model answers each row's `prompt`; a gold scorer reads the answer; higher is better.
    """

    metric: Literal["bits_per_byte", "gold"]
    data: DataRef
    gold: str | None = Field(None, description="name of the gold scorer, for metric gold")
    max_new_tokens: int = Field(48, gt=0)
    temperature: float = Field(1.0, ge=0)
    samples: int = Field(
        1, gt=0, exclude_if=lambda value: value == 1, description="answers to each prompt, for metric gold"
    )
    limit: int | None = Field(None, gt=0, description="only the first so many documents")
    cluster: str | None = Field(None, description="a field of the rows: items that share its value share a source")


Task = Annotated[
    TextTask | ChoicesTask | LabelsTask | ExactTask | PairsTask | LastWordTask, Field(discriminator="metric")
]


class SpreadRows(DataRef):
    """Rows to measure on: `rows` takes so many spread evenly over the data set, where elsewhere it takes the first. A data set
    may be sorted by source, as the lab's skills are."""


class DivergenceInputs(Config):
    """What KL is measured on: rows with `prompt`, for which answers are sampled, or with `text`, which is the answer then."""

    target: SpreadRows | None = None
    retained: SpreadRows | None = None
    max_new_tokens: int = Field(48, gt=0)

    @model_validator(mode="after")
    def _something(self) -> DivergenceInputs:
        if not self.data():
            raise ValueError("inputs to measure on: target, retained or both")
        return self

    def data(self) -> dict[InputKind, SpreadRows]:
        """The rows that are given, by kind."""
        given: dict[InputKind, SpreadRows | None] = {"target": self.target, "retained": self.retained}
        return {kind: rows for kind, rows in given.items() if rows is not None}


class Divergence(DivergenceInputs):
    """KL of every evaluated model to each of `references`, which are names of stages (eval/divergence.py)."""

    references: list[str] = Field(min_length=1)

    @field_validator("references")
    @classmethod
    def _once(cls, references: list[str]) -> list[str]:
        if len(set(references)) < len(references):
            raise ValueError("each reference once")
        return references


class DivergenceReference(Config):
    model: ModelRef

    @property
    def name(self) -> str:
        return self.model.stage or ""


class DivergenceConfig(DivergenceInputs):
    """What one cell measures: the references but the model itself and those that started from it (recipes/divergence.py)."""

    references: list[DivergenceReference] = Field(min_length=1)


class EvaluateConfig(StageConfig, Asking):
    """One cell: one model on all tasks. The runner makes these from the `evaluation:` block."""

    kind: Literal["evaluate"] = "evaluate"
    model: ModelRef
    target: list[str] = []
    retained: list[str] = []
    extra: list[str] = Field([], exclude_if=not_)
    tasks: dict[str, Task] = {}
    limit: int | None = Field(None, gt=0, description="only the first so many items of each task")
    batch_size: int = Field(64, gt=0)
    sampling_seed: int = 0
    divergence: DivergenceConfig | None = Field(None, exclude_if=not_)

    def task_files(self) -> list[str]:
        """Tasks given as files of the user's own."""
        named = dict.fromkeys(map(base_name, (*self.target, *self.retained, *self.extra)))
        return [name for name in named if name.endswith((".yaml", ".yml"))]


class Evaluation(Asking):
    """`models`: stages to measure at every seed. Tasks are names of files under eval/tasks, of `tasks` below, or of lm-eval.

    target, retained: what training should improve, what it must not forget. extra: measured and compared beside them, such as
    a generalisation split; in no group, and a family of its own in the correction for many tests.
    """

    models: list[str]
    target: list[str] = []
    retained: list[str] = []
    extra: list[str] = Field([], exclude_if=not_)
    tasks: dict[str, Task] = {}
    limit: int | None = Field(None, gt=0)
    batch_size: int = Field(64, gt=0)
    divergence: Divergence | None = Field(None, exclude_if=not_)
    win_rates: list[WinRate] = Field([], exclude_if=not_)

    def task_names(self) -> list[str]:
        """As the recipe names them, groups of tasks by their own name."""
        return [name for role in ROLES for name in getattr(self, role)]


class TaskSequence(Config):
    """Stages that teach one task each, one after the other: gives average forgetting, BWT and FWT (eval/sequence.py).

    method: sequences of one method are orders of the same tasks, and are averaged.
    """

    name: str
    method: str = "all orders"
    base: str
    stages: dict[str, str] = Field(
        min_length=2, description="in the order of training, each with the task that it teaches"
    )

    @model_validator(mode="after")
    def _distinct(self) -> TaskSequence:
        if self.base in self.stages:
            raise ValueError(f"{self.base!r} is the base: it teaches none of the tasks")
        if len(set(self.stages.values())) < len(self.stages):
            raise ValueError("each task is taught by one stage")
        return self


class Relearning(Config):
    """Is a lost skill gone or only buried? Two stages train alike on a task's old data and are evaluated while they do: one from a
    model that lost the skill, one from a model that never had it (eval/relearning.py)."""

    task: str
    lost: str = Field(description="the stage that starts from the model that lost the skill")
    never: str = Field(description="the stage that starts from a model without the skill")
    threshold: float = Field(0.8, gt=0, description="the score at which the skill counts as there")


class Frontier(Config):
    """Arms compared at equal gain (eval/frontier.py). arms: the stages that an arm's model goes through, one after the other, such
    as `[sft, ppo]`, or several such paths where a method was tried at several strengths; with `evaluate: {every: N}` in them,
    points along their training count too. base: where all paths begin. contrasts: pairs of arms [reference, new]; none = every
    arm against the first."""

    base: str
    arms: dict[str, list[str] | list[list[str]]]
    contrasts: list[tuple[str, str]] = []

    @model_validator(mode="after")
    def _two_arms(self) -> Frontier:
        if len(self.arms) < 2 or not all(self.arms.values()):
            raise ValueError("at least two arms, each with at least one stage")
        for pair in self.contrasts:
            for name in pair:
                if name not in self.arms:
                    raise ValueError(f"contrasts: there is no arm {name!r}; the arms are {', '.join(self.arms)}")
        return self

    def paths(self) -> dict[str, list[list[str]]]:
        """Every arm's paths."""
        return {arm: [way] if isinstance(way[0], str) else way for arm, way in self.arms.items()}  # type: ignore[misc]

    def pairs(self) -> list[tuple[str, str]]:
        first, *others = self.arms
        return self.contrasts or [(first, other) for other in others]

    def without(self, stages: set[str]) -> Frontier | None:
        """Less the arms that go through one of these stages; None if too little is left to compare."""
        left = {
            arm: ways for arm, ways in self.paths().items() if not stages & {stage for way in ways for stage in way}
        }
        pairs = [pair for pair in self.pairs() if set(pair) <= left.keys()]
        if self.base in stages or len(left) < 2 or not pairs:
            return None
        return Frontier(base=self.base, arms=left, contrasts=pairs)  # type: ignore[arg-type]


class Comparison(Config):
    """contrasts: pairs [reference, new]. margin: per metric, the loss that counts as none (see eval/statistics); metrics that
    it leaves out keep the default.

    sequences, relearning: what a recipe of several tasks in a row asks.
    """

    contrasts: list[tuple[str, str]] = []
    margin: dict[str, Margin] = {}
    sequences: list[TaskSequence] = []
    relearning: list[Relearning] = []
    frontier: Frontier | None = None

    @field_validator("sequences")
    @classmethod
    def _named_apart(cls, sequences: list[TaskSequence]) -> list[TaskSequence]:
        if len({sequence.name for sequence in sequences}) < len(sequences):
            raise ValueError("each sequence a name of its own")
        return sequences

    def margin_of(self, metric: str) -> float | None:
        """None for a metric that has no default either."""
        return self.margin.get(metric, _MARGINS.get(metric))
