"""Tables from results.json: for the terminal, and into README.md, so that nobody copies numbers by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.publish import between, markdown, origin
from benchmarks.statistics.peer import PEER

HERE = Path(__file__).parent
README = HERE / "README.md"
RESULTS = HERE / "results.json"
METHODS = ("ours", "two-way bootstrap", "items only", "seeds only", *PEER)
COVERAGE = {"items": "One checkpoint, items drawn", "clusters": "One checkpoint, clusters of items drawn",
            "crossed": "Training seeds and items drawn", "group": "Mean over eight tasks"}  # fmt: skip
RATES = {
    "same-models": "equal models called different",
    "loss-of-the-margin": "a loss of the margin called retained",
    "planted-drop": "a drop of the promised size found",
    "holm": "any of 8 equal tasks called different, Holm",
    "benjamini-hochberg": "false among the discoveries, Benjamini-Hochberg",
}

Entry = Mapping[str, Any]


def coverage_table(entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of one group of cells: the design, coverage in % by method, and our mean half-width in points."""
    methods = [name for name in METHODS if any(name in entry["found"] for entry in entries)]
    designs, names = zip(*(_design(entry, entries) for entry in entries), strict=True)
    rows = []
    for entry, design in zip(entries, designs, strict=True):
        rates = [entry["found"].get(name) for name in methods]
        ours = entry["found"]["ours"]
        cells = [f"{100 * rate['rate']:.1f}" if rate else "–" for rate in rates]
        rows.append([*design, *cells, f"{100 * ours['half_width']:.1f}", _goal(entry)])
    return [*names[0], *methods, "± points", "goal"], rows


def rate_table(entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """Error rates and power, in %."""
    rows = []
    for entry in entries:
        seeds, ours = entry["seeds"], entry["found"]["ours"]
        design = f"{seeds} seeds" if seeds > 1 else "1 checkpoint"
        drop = f"{100 * ours['drop']:.1f}" if "drop" in ours else ""
        effect = entry["seed_effect"]
        rows.append(
            [
                RATES[entry["group"]],
                design,
                effect,
                str(entry["items"]),
                drop,
                f"{100 * ours['rate']:.1f}",
                _goal(entry),
            ]
        )
    return ["how often", "design", "seed effect", "items", "drop in points", "%", "goal"], rows


def missed(entries: Sequence[Entry]) -> list[str]:
    """What did not reach its goal, in words."""
    return [
        f"`{entry['name']}`: {100 * entry['found']['ours']['rate']:.1f} % (goal {_goal(entry)})"
        for entry in entries
        if not entry["goal"][0] <= entry["found"]["ours"]["rate"] <= entry["goal"][1]
    ]


def rich_tables(results: Mapping[str, Any]) -> list[Table]:
    """For the terminal."""
    tables = []
    for title, (header, rows) in _titled(results["cells"]):
        table = Table(*header, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row)
        tables.append(table)
    return tables


def results_markdown(results: Mapping[str, Any]) -> str:
    """Provenance, every table, and what missed its goal."""
    tables = [f"### {title}\n\n{markdown(*table)}" for title, table in _titled(results["cells"])]
    open_ends = missed(results["cells"])
    goals = "Every goal was met." if not open_ends else "Missed:\n\n" + "\n".join(f"- {line}" for line in open_ends)
    speed = f"{results['bootstrap_seconds']:.1f} s for 10,000 resamples of 5 seeds x 2,000 items x 12 tasks."
    about = f"{origin(results)} All cells took {results['seconds'] / 60:.1f} minutes; two-way bootstrap: {speed}"
    return "\n\n".join([about, goals, *tables])


def update_readme(readme: Path = README) -> None:
    """Puts the tables between `<!-- results -->` and `<!-- /results -->`."""
    readme.write_text(between(readme.read_text(), "results", results_markdown(json.loads(RESULTS.read_text()))))


def _titled(entries: Sequence[Entry]) -> list[tuple[str, tuple[list[str], list[list[str]]]]]:
    found = []
    for group, title in COVERAGE.items():
        if mine := [entry for entry in entries if entry["group"] == group]:
            found.append((f"{title}: coverage of nominal 95 % intervals, in %", coverage_table(mine)))
    if mine := [entry for entry in entries if entry["group"] in RATES]:
        found.append(("Errors and power of our tests, in %", rate_table(mine)))
    return found


def _design(entry: Entry, entries: Sequence[Entry]) -> tuple[list[str], list[str]]:
    """The cells that tell an entry from the others of its table, and their names."""
    texts = {
        "trained per seed": {True: "both arms", False: "one arm"}[entry["both"]] if entry["seeds"] > 1 else "–",
        "seed effect": entry["seed_effect"],
        "seeds": str(entry["seeds"]),
        "clusters": str(entry["clusters"] or "–"),
        "items": str(entry["items"]),
    }
    keys = {"trained per seed": "both", "seed effect": "seed_effect", "seeds": "seeds", "clusters": "clusters"}
    names = [name for name in texts if name == "items" or len({other[keys[name]] for other in entries}) > 1]
    return [texts[name] for name in names], names


def _goal(entry: Entry) -> str:
    low, high = (f"{100 * bound:g}" for bound in entry["goal"])
    return f"≤ {high}" if low == "0" else f"≥ {low}" if high == "100" else f"{low} to {high}"


if __name__ == "__main__":
    update_readme()
