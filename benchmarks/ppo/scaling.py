"""`python -m benchmarks.ppo.scaling`: how the time of our step grows with batch, length, width and vocabulary; scaling.json."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import track

from benchmarks.ppo.cases import CACHE, scaling_cases
from benchmarks.ppo.outcome import medians
from benchmarks.ppo.render import SCALING, update_readme
from benchmarks.ppo.results import provenance, write_json
from benchmarks.ppo.sides import run_module, run_side


def main() -> None:
    """One process for every value of every axis, all else at its middle value."""
    console = Console()
    CACHE.mkdir(exist_ok=True)
    rows: list[dict[str, Any]] = []
    for axis, value, case in track(scaling_cases(), "scaling", console=console):
        run_module("benchmarks.ppo.models", case.workload.name)
        outcome = run_side("ours", case, seed=0)
        numbers = medians(outcome.steps)
        speed = case.workload.batch_size * numbers["length"] / numbers["step"]
        rows.append({"axis": axis, "value": value, "speed": speed, "peak_mib": outcome.peak_mib, **numbers})
        console.print(f"{axis} {value}: {numbers['step']:.2f} s a step, {speed:.0f} tokens/s")
    write_json(SCALING, provenance() | {"rows": rows})
    update_readme()


if __name__ == "__main__":
    main()
