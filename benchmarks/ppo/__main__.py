"""`python -m benchmarks.ppo` (or `make bench-ppo`): every case, both sides in alternation, table, plot and results.json.

The last line of output is one JSON object with the figures that goals are set on.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.ppo.cases import CACHE, CASES
from benchmarks.ppo.limit import measured_limit
from benchmarks.ppo.outcome import Outcome, medians
from benchmarks.ppo.plot import save_plot
from benchmarks.ppo.render import rich_table, update_readme
from benchmarks.ppo.results import RESULTS, case_results, figures, provenance, write_json
from benchmarks.ppo.sides import SIDES, Side, fetch_peer, run_module, run_side


def main(most_rounds: int) -> None:
    """Runs everything and leaves the results. most_rounds: fewer than a case asks for make a quick look."""
    cases = [replace(case, rounds=min(case.rounds, most_rounds)) for case in CASES]
    console = Console()
    CACHE.mkdir(exist_ok=True)
    results: dict[str, Any] = provenance()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("trl's wheel", total=1 + sum(len(SIDES) * case.rounds + 1 for case in cases))
        fetch_peer()
        progress.update(task, description="limit of matrix products")
        results["limits"] = {dtype: measured_limit(dtype) for dtype in ("fp32", "bf16")}
        progress.advance(task)
        results["cases"] = {}
        for case in cases:
            progress.update(task, description=f"{case.name}: models")
            run_module("benchmarks.ppo.models", case.workload.name)
            progress.advance(task)
            outcomes: dict[Side, list[Outcome]] = {side: [] for side in SIDES}
            for number in range(case.rounds):
                for side in SIDES:
                    progress.update(task, description=f"{case.name}: {side}, round {number + 1}")
                    outcome = run_side(side, case, seed=number)
                    outcomes[side].append(outcome)
                    progress.console.print(
                        f"{case.name:18} {side:4} {medians(outcome.steps)['step']:6.2f} s a step, {outcome.peak_mib:5.0f} MiB"
                    )
                    progress.advance(task)
            results["cases"][case.name] = case_results(case, outcomes)
    results["figures"] = figures(results["cases"], results["limits"])
    write_json(RESULTS, results)
    save_plot(results)
    update_readme()
    console.print(rich_table(results))
    print(json.dumps(results["figures"]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=99, help="at most so many processes of each side (default: all)")
    main(parser.parse_args().rounds)
