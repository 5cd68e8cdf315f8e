"""`python -m benchmarks.statistics` (or `make bench-statistics`): every cell, tables, results.json.

The last line of output is one JSON object with each coverage, error rate and power.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from alignment.core.provenance import cores
from benchmarks.publish import provenance, rounded, write_json
from benchmarks.statistics.cells import Cell, all_cells
from benchmarks.statistics.measure import Figures, bootstrap_seconds, measure
from benchmarks.statistics.peer import VERSION, fetch_peer
from benchmarks.statistics.render import RESULTS, missed, rich_tables, update_readme


def main(share: float, jobs: int) -> None:
    """Runs everything, `jobs` cells at once. share: of the simulations, less for a quick look, which is never published."""
    console, started = Console(), time.perf_counter()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers: their matrices are small
    with_peer = fetch_peer()
    if not with_peer:
        console.print(f"evalstats {VERSION} could not be installed: it is left out", style="yellow")
    cells = [
        replace(cell, simulations=round(cell.simulations * share), few=round(cell.few * share)) for cell in all_cells()
    ]
    seconds, found = _run(cells, with_peer, jobs, console)
    results: dict[str, Any] = provenance(("numpy", "scipy", "statsmodels"))
    results["versions"] |= {"evalstats": VERSION} if with_peer else {}
    results["cells"] = [_entry(cell, found[cell.name]) for cell in cells]
    results |= {"bootstrap_seconds": seconds, "seconds": time.perf_counter() - started}
    results["figures"] = figures(results)
    if share >= 1:
        write_json(RESULTS, results)
        update_readme()
    for table in rich_tables(results):
        console.print(table)
    for line in missed(results["cells"]):
        console.print(f"missed: {line}", style="yellow")
    print(json.dumps(rounded(results["figures"])))


def figures(results: Mapping[str, Any]) -> dict[str, float]:
    """Every rate by cell and method, the drops whose power was promised, and the bootstrap's seconds."""
    numbers = {"bootstrap_seconds": results["bootstrap_seconds"], "goals_missed": float(len(missed(results["cells"])))}
    for entry in results["cells"]:
        for method, found in entry["found"].items():
            numbers[f"{entry['name']}: {method}"] = found["rate"]
            if "drop" in found:
                numbers[f"{entry['name']}: promised drop"] = found["drop"]
    return numbers


def _run(
    cells: Sequence[Cell], with_peer: bool, jobs: int, console: Console
) -> tuple[float, dict[str, dict[str, Figures]]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    found = {}
    with (
        Progress(*columns, TimeRemainingColumn(), console=console) as progress,
        ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool,
    ):
        shown = progress.add_task("the bootstrap, timed alone", total=len(cells))
        seconds = pool.submit(bootstrap_seconds).result()
        by_size = sorted(cells, key=lambda cell: -cell.world.items * cell.world.seeds * cell.world.tasks)
        futures = {pool.submit(measure, cell, with_peer): cell for cell in by_size}
        for future in as_completed(futures):
            cell = futures[future]
            found[cell.name] = future.result()
            progress.update(shown, advance=1, description=cell.name)
    return seconds, found


def _entry(cell: Cell, found: Mapping[str, Figures]) -> dict[str, Any]:
    about = {"name": cell.name, "kind": cell.kind, "group": cell.group, "goal": list(cell.goal)}
    return about | {"seed_effect": cell.seed_effect} | asdict(cell.world) | {"found": dict(found)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the simulations; below 1 nothing is written")
    parser.add_argument("--jobs", type=int, default=cores(), help="cells at once (default: one a core)")
    arguments = parser.parse_args()
    main(arguments.share, arguments.jobs)
