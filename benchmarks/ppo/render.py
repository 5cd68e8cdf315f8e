"""Tables from results.json: for the terminal, and into benchmarks/README.md, so that nobody copies numbers by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.ppo.cases import HERE
from benchmarks.ppo.outcome import PHASES
from benchmarks.ppo.plot import NAMES
from benchmarks.ppo.results import RESULTS

README = HERE.parent / "README.md"
SCALING = HERE / "scaling.json"
_HEADER = ("case", "dtype", "side", *PHASES, "step", "tokens", "MiB", "ratio")


def case_rows(results: Mapping[str, Any]) -> list[list[str]]:
    """A row of text for each case and side: seconds by phase and step, tokens an answer, memory, and trl's step over ours."""
    rows = []
    for case in results["cases"].values():
        for side, name in NAMES.items():
            numbers = case[side]
            seconds = [f"{numbers[phase]:.2f}" for phase in (*PHASES, "step")]
            first, last = min(case["ratio_by_round"]), max(case["ratio_by_round"])
            ratio = f"{case['ratio']:.2f} ({first:.2f} to {last:.2f})" if side == "ours" else ""
            tokens, mib = f"{numbers['length']:.1f}", f"{numbers['peak_mib']:.0f}"
            rows.append([case["title"], case["precision"], name, *seconds, tokens, mib, ratio])
    return rows


def rich_table(results: Mapping[str, Any]) -> Table:
    """For the terminal."""
    table = Table(*_HEADER, title=f"Seconds of a PPO step, {results['machine']}")
    for row in case_rows(results):
        table.add_row(*row, end_section=not row[-1])
    return table


def results_markdown(results: Mapping[str, Any]) -> str:
    """What was measured where, the table, and the figures."""
    packages = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    limits = ", ".join(f"{flops / 1e9:.0f} GFLOP/s in {dtype}" for dtype, flops in results["limits"].items())
    return "\n\n".join(
        [
            f"Commit {results['commit']}, {results['date']}, {results['machine']}, {results['threads']} threads. {packages}. "
            f"Matrix products reach {limits} here.",
            _markdown(_HEADER, case_rows(results)),
            _markdown(("figure", "value"), [[f"`{name}`", f"{value:g}"] for name, value in results["figures"].items()]),
        ]
    )


def scaling_markdown(scaling: Mapping[str, Any]) -> str:
    """Seconds by phase for every value of every axis."""
    header = ("axis", "value", *PHASES, "step", "tokens/s", "MiB")
    rows = [
        [
            row["axis"],
            str(row["value"]),
            *(f"{row[phase]:.3f}" for phase in (*PHASES, "step")),
            f"{row['speed']:.0f}",
            f"{row['peak_mib']:.0f}",
        ]
        for row in scaling["rows"]
    ]
    return f"Commit {scaling['commit']}, {scaling['date']}, {scaling['machine']}.\n\n" + _markdown(header, rows)


def update_readme(readme: Path = README) -> None:
    """Puts the tables of the files that exist between their markers: `<!-- results -->` ... `<!-- /results -->`."""
    text = readme.read_text()
    for name, path, markdown in (("results", RESULTS, results_markdown), ("scaling", SCALING, scaling_markdown)):
        if path.exists():
            text = between(text, name, markdown(json.loads(path.read_text())))
    readme.write_text(text)


def between(text: str, name: str, inner: str) -> str:
    """`text` with what lies between the markers of that name replaced. Raises ValueError if they are missing."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"no markers <!-- {name} --> and <!-- /{name} -->")
    return pattern.sub(lambda found: f"{found[1]}\n{inner}\n\n{found[2]}", text)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    update_readme()
