"""`align run`: plan, execute, report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from alignment.core.store import Store
from recipes.check import check_recipe
from recipes.estimate import Estimate
from recipes.external import Externals
from recipes.live import LiveDisplay
from recipes.plan import Plan, make_plan
from recipes.runner import Outcome, default_jobs, run_cells
from recipes.schema import load_recipe


def run_recipe(
    name: str, overrides: Sequence[str], only: Sequence[str], jobs: int | None, folder: Path, out: Console
) -> int:
    """Returns the exit code."""
    started = time.time()
    recipe, text = load_recipe(name, overrides)
    store = Store(folder)
    plan = make_plan(recipe, Externals(store.root / ".digests.json"))
    check_recipe(recipe)
    _check_only(only, plan)
    cells = plan.only(list(only)) if only else plan.cells
    jobs = jobs or default_jobs()
    missing = [cell for cell in cells if not store.find(cell.digest)]
    expected = recipe.minutes * 60 if recipe.minutes and not only else None
    estimate = Estimate(store, cells, jobs, expected)
    left = estimate.seconds_left([], missing)
    about = f"; about {left / 60:.0f} min" if left and left > 60 else ""
    out.print(
        f"{recipe.name}: {len(cells)} cells, {len(cells) - len(missing)} done, {len(missing)} to do{about}; {jobs} at once"
    )
    with LiveDisplay(out, estimate, len(cells)) as display:
        outcome = run_cells(cells, store, recipe.name, display, jobs)
    code = _tell_errors(outcome, out)
    if not code and recipe.evaluation and not only:
        finish_report(plan, store, text, out)
    out.print(f"{'failed' if code else 'done'} after {(time.time() - started) / 60:.1f} min")
    return code


def finish_report(plan: Plan, store: Store, text: str, out: Console) -> None:
    """Write the report of what is finished and print its table."""
    # Imported here, with numpy, scipy and pyarrow: half a second that a bad recipe need not wait.
    from eval.terminal import print_results
    from recipes.report import make_report

    with out.status("building the report (a few seconds)"):
        results = make_report(plan, store, text, [])
    print_results(results, out)


def _tell_errors(outcome: Outcome, out: Console) -> int:
    for error in outcome.errors.values():
        out.print(f"[red]error[/] {escape(str(error))}", soft_wrap=True, highlight=False)
    if outcome.skipped:
        out.print(f"not run, since they need a failed cell: {', '.join(outcome.skipped)}", soft_wrap=True)
    return max((error.exit_code for error in outcome.errors.values()), default=0)


def _check_only(only: Sequence[str], plan: Plan) -> None:
    from alignment.core.errors import RecipeError

    names = {stage for stage, _ in plan.by_stage}
    for name in only:
        if name not in names:
            raise RecipeError(
                f"--only {name}",
                "the recipe has no such stage",
                f"one of {', '.join(sorted(names))}",
                "correct the name",
            )
