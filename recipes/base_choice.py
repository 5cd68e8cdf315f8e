"""`align compare BASE1 BASE2 ... --recipe R`: which base model suits a recipe, before any training: scores on its tasks, speed, memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from alignment.core.config import ModelRef
from alignment.core.errors import ModelError, RecipeError
from alignment.core.provenance import hardware
from alignment.core.store import Store
from eval import words
from eval.config import ROLES, Evaluation
from eval.results import TaskItems, plain
from eval.task_config import base_name
from recipes.check import check_recipe
from recipes.estimate import Estimate
from recipes.external import Externals, cached_snapshot
from recipes.live import LiveDisplay
from recipes.plan import Cell, Plan, make_plan
from recipes.report import measured_models
from recipes.runner import default_jobs, run_cells
from recipes.schema import load_recipe, parse_recipe
from recipes.sides import Side, find_side, with_short_names

_BYTES_TO_TRAIN = 16  # of a weight trained in full: fp32 with its gradient and AdamW's two means
_GIB = 2**30


@dataclass(frozen=True)
class Score:
    """interval: 95 %, for new items; None for bits per byte, which is a ratio of sums."""

    metric: str
    value: float
    interval: tuple[float, float] | None
    n: int


@dataclass(frozen=True)
class Base:
    """One model. scores: by task. peak_memory_mib: what reading and writing held. train_bytes: weights, gradients and optimiser of full
    fine-tuning, by arithmetic."""

    name: str
    scores: Mapping[str, Score]
    parameters: int
    peak_memory_mib: float | None
    train_bytes: int
    read_per_second: float
    written_per_second: float


def choose_base(
    names: Sequence[str],
    recipe: str,
    overrides: Sequence[str],
    limit: int | None,
    root: Path,
    out: Console,
    as_json: bool,
) -> None:
    """Measure the models and print one table, or one JSON object. Raises RecipeError for what cannot be measured before training."""
    block, left_out = _before_training(recipe, overrides)
    store = Store(root)
    sides = with_short_names([find_side(name, store) for name in names])
    models = {f"model{number}": _only_model(side) for number, side in enumerate(sides)}
    _refuse_others_than_causal(models.values())
    costs = {
        f"{key}-cost": {"kind": "cost", "model": {"stage": key}, "machine": hardware(), "seed": 0} for key in models
    }
    raw = {
        "name": "compare",
        "stages": {key: {"kind": "pretrained", "model": model} for key, model in models.items()} | costs,
        "evaluation": block.model_dump(mode="json", exclude={"models", "divergence", "win_rates"})
        | {"models": list(models), "limit": limit or block.limit},
    }
    parsed = parse_recipe(raw, f"align compare --recipe {recipe}")
    check_recipe(parsed)
    plan = make_plan(parsed, Externals(store.root / ".digests.json"))
    progress = Console(stderr=True) if as_json else out
    measuring = [cell for cell in plan.cells if cell.stage not in costs]
    _make(measuring, store, progress, default_jobs())
    _make(
        [cell for cell in plan.cells if cell.stage in costs], store, progress, 1
    )  # side by side they would slow each other
    bases = _bases(plan, store, dict(zip(models, sides, strict=True)))
    if as_json:
        print(json.dumps(plain({"bases": [asdict(base) for base in bases], "left_out": left_out}), indent=1))
        return
    out.print(_table(bases))
    out.print(
        f"In points or bits per byte, with 95 % intervals for new items; speed and memory in fp32 on {hardware()}; to train: weights, "
        "gradients and AdamW of full fine-tuning, by arithmetic.",
        style="dim",
    )
    for task in left_out:
        out.print(f"not measured, since it needs what a stage of the recipe makes: {task}", style="dim")


def _before_training(name: str, overrides: Sequence[str]) -> tuple[Evaluation, list[str]]:
    """The recipe's measurements less the tasks that need what one of its stages makes, and the names of these."""
    recipe, _ = load_recipe(name, overrides)
    block = recipe.evaluation
    if block is None:
        raise RecipeError(f"--recipe {name}", "has no tasks", "a recipe with a block `evaluation:`", "name another")
    needy = {
        task for task, own in block.tasks.items()
        if own.data.stage is not None or getattr(getattr(own, "examples", None), "stage", None) is not None
    }  # fmt: skip
    kept = {role: [task for task in getattr(block, role) if base_name(task) not in needy] for role in ROLES}
    if not any(kept.values()):
        raise RecipeError(
            f"--recipe {name}", "all its tasks need what its stages make", "a task of its own data", "name another"
        )
    tasks = {task: own for task, own in block.tasks.items() if task not in needy}
    return block.model_copy(update={**kept, "tasks": tasks}), sorted(needy)


def _only_model(side: Side) -> dict[str, str]:
    """The model of the first seed."""
    if not side.models:
        raise RecipeError(side.name, "is no model", "a model folder, hub:NAME or RECIPE/STAGE", "name models only")
    return side.models[min(side.models)]


def _refuse_others_than_causal(models: Iterable[Mapping[str, str]]) -> None:
    """One RecipeError for all models that generate no text, before any is measured; of those on the hub, for the ones in the cache."""
    from alignment.models.load import read_causal_config

    refused = []
    for model in map(ModelRef.model_validate, models):
        folder = Path(model.path) if model.path is not None else cached_snapshot(model)
        if folder is None or (model.hub is not None and not (folder / "config.json").is_file()):
            continue
        try:
            read_causal_config(folder)
        except ModelError as error:
            refused.append(f"{f'hub:{model.hub}' if model.hub else model.path}: {error.what}")
    if refused:
        what = "cannot be measured: " + "; ".join(refused)
        expected = "models that generate text (not encoders, nor encoder-decoders)"
        raise RecipeError("align compare --recipe", what, expected, "leave these models out")


def _make(cells: Sequence[Cell], store: Store, out: Console, jobs: int) -> None:
    with LiveDisplay(out, Estimate(store, cells, jobs, None), len(cells)) as display:
        outcome = run_cells(cells, store, "compare", display, jobs)
    for error in outcome.errors.values():
        raise error


def _bases(plan: Plan, store: Store, sides: Mapping[str, Side]) -> list[Base]:
    found = []
    for measured in measured_models(plan, store):
        cell = plan.by_stage[f"{measured.stage}-cost", 0]
        cost = store.find(cell.digest)
        assert cost is not None
        summary = cost.summary
        found.append(
            Base(
                name=sides[measured.stage].name,
                scores={task: _score(items) for task, items in measured.tasks.items()},
                parameters=summary["parameters"],
                peak_memory_mib=summary["peak_memory_mib"],
                train_bytes=_BYTES_TO_TRAIN * summary["parameters"],
                read_per_second=summary["read_per_second"],
                written_per_second=summary["written_per_second"],
            )
        )
    return found


def _score(items: TaskItems) -> Score:
    from eval.statistics import crossed

    ratio = items.metric == "bits_per_byte"
    interval = None if ratio else crossed(items.scores[None], items.clusters).ci95
    return Score(items.metric, items.about["value"], interval, len(items.keys))


def _table(bases: Sequence[Base]) -> Table:
    """A row for each task and each cost, a column for each model."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("")
    for base in bases:
        table.add_column(base.name, justify="right", overflow="fold")
    for task in bases[0].scores:
        table.add_row(f"{task} ({bases[0].scores[task].metric})", *(_shown(base.scores[task]) for base in bases))
    rows = {
        "parameters": lambda base: f"{base.parameters:,}",
        "tokens read a second": lambda base: f"{base.read_per_second:,.0f}",
        "tokens written a second": lambda base: f"{base.written_per_second:,.0f}",
        "memory to run, GiB": lambda base: (
            "-" if base.peak_memory_mib is None else f"{base.peak_memory_mib / 1024:.2f}"
        ),
        "memory to train, GiB": lambda base: f"{base.train_bytes / _GIB:.2f}",
    }
    for title, shown in rows.items():
        table.add_row(title, *map(shown, bases))
    return table


def _shown(score: Score) -> str:
    interval = f" ({words.interval(score.metric, score.interval)})" if score.interval else ""
    return f"{words.value(score.metric, score.value)}{interval}"
