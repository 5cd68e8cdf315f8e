"""Gathers finished cells into what the report is made from. Needs no model: `align report` works on a store alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignment.core.artifact import Artifact, digest_of
from alignment.core.config import EVALUATIONS
from alignment.core.errors import RecipeError
from alignment.core.provenance import code_commit, hardware, versions
from alignment.core.store import Store
from eval.comparison import Results
from eval.config import Comparison
from eval.results import MeasuredModel, ReportInput
from recipes.plan import EVALUATE, Cell, Plan
from recipes.win_rates import judged_cells


def measured_models(plan: Plan, store: Store) -> Iterator[MeasuredModel]:
    """Every evaluated model of the plan that is finished, each once under its name."""
    recipe = plan.recipe
    seen: set[tuple[str, str]] = set()
    for name in recipe.evaluation.models if recipe.evaluation else []:
        for seed in recipe.seeds:
            cell = plan.by_stage[EVALUATE + name, seed]
            evaluation = store.find(cell.digest)
            model = plan.by_stage[name, seed]
            trained = store.find(model.digest) if isinstance(model, Cell) else model
            if evaluation is None or trained is None or (name, cell.digest) in seen:
                continue
            seen.add((name, cell.digest))
            # A measurement may differ by seed where the model does not: it may need what another stage made.
            measured_seed = cell.recipe_seed if isinstance(cell, Cell) and cell.recipe_seed is not None else 0
            yield _measured(name, model, trained, evaluation, plan, measured_seed)


def _measured(
    name: str, model: Cell | Artifact, trained: Artifact, evaluation: Artifact, plan: Plan, seed: int
) -> MeasuredModel:
    metrics = trained.path / "metrics.jsonl"
    is_cell = isinstance(model, Cell)
    measured = MeasuredModel(
        stage=name,
        seed=seed,
        parent=_parent(name, plan),
        method=model.config.kind if is_cell else "pretrained",
        evaluation=evaluation.path,
        training=dict(trained.summary) | (_cost(trained) if is_cell else {}),
        metrics=metrics if is_cell and metrics.exists() else None,
        weights_digest=trained.digest,
    )
    return replace(measured, snapshots=_snapshots(measured, trained.path / EVALUATIONS))


def _cost(trained: Artifact) -> dict[str, Any]:
    """Of a finished cell; a cell of long ago may not know its memory."""
    made = trained.provenance
    return {"seconds": made["seconds"], "peak_memory_mib": made.get("peak_memory_mib")}


def _snapshots(model: MeasuredModel, folder: Path) -> list[MeasuredModel]:
    """What was measured while the model was trained, in the order of steps."""
    return [
        replace(model, step=int(place.name.removeprefix("step-")), evaluation=place)
        for place in sorted(folder.glob("step-*"))
    ]


def _parent(name: str, plan: Plan) -> str | None:
    """The nearest evaluated stage that this model started from."""
    evaluated = plan.recipe.evaluation.models if plan.recipe.evaluation else []
    source = getattr(plan.recipe.stages[name], "model", None)
    while source is not None and source.stage is not None:
        if source.stage in evaluated and source.stage != name:
            return source.stage
        source = getattr(plan.recipe.stages[source.stage], "model", None)
    return None


def _tasks_of(role: str, models: list[MeasuredModel]) -> list[str]:
    """What was measured in that role, groups of tasks unfolded."""
    return [task for task, items in models[0].tasks.items() if items.about["role"] == role]


def _complete_arms(plan: Plan, models: list[MeasuredModel]) -> tuple[list[MeasuredModel], list[str]]:
    """The models of arms that are measured at every seed, and the names of the other arms: half an arm would be compared as if
    its seeds were all there are."""
    evaluated = plan.recipe.evaluation.models if plan.recipe.evaluation else []
    expected = {name: {plan.by_stage[EVALUATE + name, seed].digest for seed in plan.recipe.seeds} for name in evaluated}
    unfinished = [name for name in evaluated if sum(m.stage == name for m in models) < len(expected[name])]
    return [model for model in models if model.stage not in unfinished], unfinished


def _answerable(plan: Plan, unfinished: list[str]) -> Comparison:
    """What the recipe asks, less the questions that need an unfinished arm."""
    asked, missing = plan.recipe.comparison, set(unfinished)

    def complete(*stages: str | None) -> bool:
        return not missing & set(stages)

    return asked.model_copy(
        update={
            "contrasts": [pair for pair in asked.contrasts if complete(*pair)],
            "sequences": [each for each in asked.sequences if complete(each.base, *each.stages)],
            "relearning": [
                each
                for each in asked.relearning
                if complete(each.lost, each.never, _parent(each.lost, plan), _parent(each.never, plan))
            ],
            "frontier": asked.frontier and asked.frontier.without(missing),
        }
    )


def _reward_models(plan: Plan, store: Store) -> list[dict[str, Any]]:
    """What the training of every finished reward model measured."""
    finished = [(cell, store.find(cell.digest)) for cell in plan.cells if cell.config.kind == "reward"]
    return [{**made.summary, "stage": cell.stage, "seed": cell.recipe_seed or 0} for cell, made in finished if made]


def make_report(plan: Plan, store: Store, recipe_text: str, warnings: list[str]) -> Results:
    """Write results.json, items.parquet and report.html for what is finished."""
    from eval.report import build_report

    recipe = plan.recipe
    models, unfinished = _complete_arms(plan, list(measured_models(plan, store)))
    if unfinished:
        warnings = [*warnings, f"left out, since not every seed is finished: {', '.join(unfinished)}"]
    if not models or recipe.evaluation is None:
        raise RecipeError(recipe.name, "no evaluated model is finished", "at least one", f"align run {recipe.name}")
    judged, unjudged = judged_cells(plan, store, unfinished)
    if unjudged:
        warnings = [*warnings, f"win rates left out, since not every seed is judged: {', '.join(unjudged)}"]
    folder = store.root / recipe.name / "report"
    report = ReportInput(
        recipe=recipe.name,
        question=recipe.question,
        recipe_text=recipe_text,
        recipe_digest=digest_of(sorted(cell.digest for cell in plan.cells)),
        code_commit=code_commit(),
        versions=versions(),
        hardware=hardware(),
        models=models,
        target=_tasks_of("target", models),
        retained=_tasks_of("retained", models),
        extra=_tasks_of("extra", models),
        reward_models=_reward_models(plan, store),
        win_rates=judged,
        comparison=_answerable(plan, unfinished),
        warnings=warnings,
    )
    return build_report(report, folder)
