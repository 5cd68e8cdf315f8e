"""What is compared. No torch here: the runner that starts both sides must weigh nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from alignment.core.config import Precision

HERE = Path(__file__).parent
CACHE = HERE / "cache"
LEARNING_RATE = 1e-7  # so small that answers are as long in the last step as in the first, on both sides
KL_COEFFICIENT = 0.05
ModelName = Literal["lab", "random"]


@dataclass(frozen=True)
class Workload:
    """model: one with random weights of this shape, or the lab's own, trained on the spot. end_chance: of the random model to
    end its answer with any token, so that lengths are geometric; None = no answer ends before `max_new_tokens`."""

    name: str
    title: str
    max_new_tokens: int
    epochs: int
    minibatches: int
    model: ModelName = "random"
    prompt_tokens: int = 12
    batch_size: int = 64
    hidden_size: int = 256
    layers: int = 4
    vocabulary: int = 400
    end_chance: float | None = None

    @property
    def folder(self) -> Path:
        return CACHE / "models" / self.name

    @property
    def policy(self) -> Path:
        return self.folder / "policy"

    @property
    def reward(self) -> Path:
        return self.folder / "reward"

    @property
    def prompts(self) -> Path:
        return self.folder / "prompts.jsonl"

    @property
    def stops(self) -> bool:
        """Whether answers end by an EOS."""
        return self.model == "lab" or self.end_chance is not None


LAB = Workload("lab", "lab", 48, epochs=2, minibatches=2, layers=2, end_chance=1 / 20)
LAB_TRAINED = Workload("lab_trained", "lab, trained model", 48, epochs=2, minibatches=2, model="lab")
LONG_TAIL = Workload("long_tail", "long tail", 256, epochs=2, minibatches=2, vocabulary=40, end_chance=1 / 50)
FULL = Workload("full", "full length", 64, epochs=4, minibatches=4, prompt_tokens=32)


@dataclass(frozen=True)
class Case:
    """steps: timed ones of each process, after `warmup` others. rounds: processes of each side, in alternation."""

    workload: Workload
    precision: Precision
    steps: int
    rounds: int
    warmup: int = 2

    @property
    def name(self) -> str:
        return f"{self.workload.name}_{self.precision}"


CASES = (
    Case(LAB, "fp32", steps=6, rounds=3),
    Case(LAB, "bf16", steps=6, rounds=3),
    Case(LAB_TRAINED, "fp32", steps=6, rounds=2),
    Case(LAB_TRAINED, "bf16", steps=6, rounds=2),
    Case(LONG_TAIL, "fp32", steps=4, rounds=3, warmup=1),
    Case(FULL, "fp32", steps=3, rounds=2, warmup=1),
    Case(FULL, "bf16", steps=3, rounds=2, warmup=1),
)


_MIDDLE = Workload("middle", "middle", 32, epochs=1, minibatches=2, prompt_tokens=16, layers=2)
AXES: dict[str, tuple[int, ...]] = {
    "batch_size": (16, 32, 64, 128),
    "max_new_tokens": (16, 32, 64, 128),
    "hidden_size": (128, 256, 512),
    "vocabulary": (400, 4_000, 32_000),
}


def scaling_cases() -> list[tuple[str, int, Case]]:
    """Axis, value, and the middle workload with that value there."""
    return [
        (axis, value, Case(replace(_MIDDLE, name=f"{axis}_{value}", **{axis: value}), "fp32", steps=4, rounds=1))
        for axis, values in AXES.items()
        for value in values
    ]


def case_named(name: str) -> Case:
    """Of the comparison or of the scaling."""
    return next(case for case in (*CASES, *(case for *_, case in scaling_cases())) if case.name == name)


def workload_named(name: str) -> Workload:
    return next(
        case.workload for case in (*CASES, *(case for *_, case in scaling_cases())) if case.workload.name == name
    )
