"""The command `align`. Exit code 0: done; 1: the run failed; 2: bad usage or a bad recipe."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alignment.core.errors import SuiteError
from recipes import data_cli

app = typer.Typer(
    help="Alignment experiments by recipe: train, measure, compare.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(data_cli.app, name="data")
out = Console()

RecipeName = Annotated[
    str, typer.Argument(help="a recipe file, or the name of a shipped recipe such as lab/sft-vs-rlhf")
]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="override a value: stages.ppo.kl.coefficient=0.2")]
StoreFolder = Annotated[Path, typer.Option("--store", envvar="ALIGN_STORE", help="folder of finished results")]
_RUNS = Path("runs")
_MARGIN = 0.05


@app.command()
def check(recipe: RecipeName, overrides: Overrides = None, store: StoreFolder = _RUNS) -> None:
    """Find what is wrong with a recipe and its data, before any model is loaded, and what its trainings take of the memory."""
    from alignment.memory.words import machine_bytes
    from recipes.check import check_recipe
    from recipes.memory import memory_table, notes, remedies, stage_memory
    from recipes.plan import make_plan
    from recipes.schema import load_recipe

    parsed, _ = load_recipe(recipe, overrides or [])
    externals = _externals(store, fetch=False)
    plan = make_plan(parsed, externals)
    for where, name in externals.unreached:
        out.print(
            f"  {where}: {escape(name)}, not in the local cache, and the hub cannot be asked from here", soft_wrap=True
        )
    found = check_recipe(parsed)
    for data in found:
        rows = f"{data.rows:,} rows{' and more' * data.more}" if data.rows else "checked when its stage starts"
        rows += f" ({data.format})" if data.format else ""
        out.print(f"  {data.where}: {escape(data.source)}, {rows}", highlight=False, soft_wrap=True)
    memory = stage_memory(plan, found)
    if memory.found:
        out.print(memory_table(memory, machine_bytes()))
    for line in [*notes(memory), *remedies(memory, machine_bytes())]:
        out.print(f"  {escape(line)}", highlight=False, soft_wrap=True)
    out.print(
        f"{parsed.name}: {len(parsed.stages)} stages, {len(parsed.seeds)} seeds, {len(plan.cells)} cells: no errors found"
    )


@app.command()
def plan(recipe: RecipeName, overrides: Overrides = None, store: StoreFolder = _RUNS) -> None:
    """Show each cell as done, resumable or to do, and which field caused a miss."""
    from alignment.core.store import Store
    from recipes.plan import difference_to_nearest, make_plan
    from recipes.schema import load_recipe

    parsed, _ = load_recipe(recipe, overrides or [])
    made = make_plan(parsed, _externals(store))
    results = Store(store)
    table = Table("cell", "state", "digest", "why not cached", box=None, pad_edge=False)
    for cell in made.cells:
        if results.find(cell.digest):
            table.add_row(cell.label, "[green]done[/]", cell.digest[:12], "")
            continue
        state = "[yellow]resumable[/]" if results.partial(cell.digest).exists() else "to do"
        table.add_row(cell.label, state, cell.digest[:12], escape(difference_to_nearest(cell, results) or ""))
    out.print(table)


@app.command()
def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    only: Annotated[list[str] | None, typer.Option(help="only these stages and what they need")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="cells at once (default: from cores and memory)")] = None,
    store: StoreFolder = _RUNS,
) -> None:
    """Carry out a recipe: skip what is done, make the rest, end with the report."""
    from recipes.run import run_recipe

    try:
        code = run_recipe(recipe, overrides or [], only or [], jobs, store, out)
    except KeyboardInterrupt:
        out.print(
            "\nstopped: finished cells are kept and interrupted ones resume; run the same command to go on",
            soft_wrap=True,
        )
        code = 130
    if code:
        raise typer.Exit(code)


@app.command()
def report(recipe: RecipeName, overrides: Overrides = None, store: StoreFolder = _RUNS) -> None:
    """Build the report again from what is in the store. Needs no model."""
    from alignment.core.store import Store
    from recipes.plan import make_plan
    from recipes.run import finish_report
    from recipes.schema import load_recipe

    parsed, text = load_recipe(recipe, overrides or [])
    finish_report(make_plan(parsed, _externals(store)), Store(store), text, out)


@app.command()
def show(
    result: Annotated[str | None, typer.Argument(help="folder or digest of one result")] = None,
    verify: Annotated[bool, typer.Option(help="read every file again and compare its sha256")] = False,
    store: StoreFolder = _RUNS,
) -> None:
    """List what is in the store, or show one result."""
    from recipes.show import show_one, show_store

    code = show_one(store, result, verify, out) if result else show_store(store, verify, out)
    if code:
        raise typer.Exit(code)


@app.command()
def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            help="two: the reference and the other one; with --recipe, any number. Each is RECIPE/STAGE of the store, "
            "STORE/RECIPE/STAGE, a model folder, hub:NAME, or the output folder of lm_eval --log_samples; A1,A2,A3 = the seeds "
            "of one arm"
        ),
    ],
    recipe: Annotated[
        str | None, typer.Option(help="which of these base models suits this recipe? Its tasks, speed, memory")
    ] = None,
    overrides: Overrides = None,
    tasks: Annotated[
        str, typer.Option(help="tasks to measure models on, or to pick of what is measured, separated by commas")
    ] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="only the first so many items of each task")] = None,
    margin: Annotated[
        float | None, typer.Option(help=f"the loss that counts as none; {_MARGIN} unless said otherwise")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="of lm-eval's logs: compare by this one, such as acc_norm")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead of a table")] = False,
    store: StoreFolder = _RUNS,
) -> None:
    """Are two models really different? Paired, with intervals and a verdict. With --recipe: which base model to begin with."""
    if recipe is not None:
        idle = {"--tasks": bool(tasks), "--margin": margin is not None, "--metric": metric is not None}
        for option in (name for name, given in idle.items() if given):
            raise typer.BadParameter(f"{option} belongs to two models without --recipe, whose tasks are measured whole")
        from recipes.base_choice import choose_base

        choose_base(models, recipe, overrides or [], limit, store, out, as_json)
        return
    if overrides:
        raise typer.BadParameter("--set changes the recipe of --recipe, which is not given")
    if len(models) != 2:
        raise typer.BadParameter("name two models, or a recipe with --recipe for any number of them")
    from recipes.compare import compare_two

    a, b = models
    compare_two(
        a,
        b,
        [task for task in tasks.split(",") if task],
        limit,
        _MARGIN if margin is None else margin,
        store,
        out,
        metric,
        as_json,
    )


def _externals(store: Path, fetch: bool = True):
    from alignment.core.store import Store
    from recipes.external import Externals

    return Externals(Store(store).root / ".digests.json", fetch)


def main() -> None:
    """Entry point: a user's error is one message without traceback; anything else is our bug and shows its own."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except SuiteError as error:
        Console(stderr=True).print(f"[red]error[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(error.exit_code)
    except OSError as error:
        from recipes.cell import disk_is_full, full_disk

        place = Path(error.filename or ".")
        if not disk_is_full(error, place):
            raise
        Console(stderr=True).print(f"[red]error[/] {escape(str(full_disk(place)))}", soft_wrap=True, highlight=False)
        sys.exit(1)
