"""The verdict as a table in the terminal: one line per contrast and per arm against its base. Fits 100 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eval import words
from eval.comparison import ArmComparison, Results, TaskComparison
from eval.frontier import Matched
from eval.sequence_words import relearning_line, sequence_line
from eval.win_words import win_line

STYLES = {"forgot": "bold red", "lost": "bold red", "gained": "green", "retained": "green", "inconclusive": "yellow"}


def verdict_table(arms: Sequence[ArmComparison]) -> Table:
    """Contrasts first, then each arm against its base: gain on the target, change on the retained tasks, verdict."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    names = [f"{arm.new} vs {arm.reference}" for arm in in_reading_order(arms)]
    width = min(24, max(map(len, names), default=0))
    table.add_column("comparison", min_width=width, max_width=width, overflow="fold")
    for title in ("target", "retained"):
        table.add_column(title, justify="right", no_wrap=True)
        table.add_column("95 % interval", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for name, arm in zip(names, in_reading_order(arms), strict=True):
        cells: list[str | Text] = [name]
        for role in ("target", "retained"):
            cells += _numbers(arm.shown(role))
        verdict = _verdict(arm.shown("retained") or arm.shown("target"))
        verdict.plain = verdict.plain.replace(" (", "\n(")  # the note below, or 80 columns are too few
        table.add_row(*cells, verdict)
    return table


def task_table(arm: ArmComparison) -> Table:
    """Every task of one comparison, for `align compare`."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    width = min(20, max(len(words.task_name(row.task)) for row in (*arm.rows, *arm.groups)))
    table.add_column("task", min_width=width, max_width=width, overflow="fold")
    for title in (arm.reference, arm.new):
        table.add_column(title, justify="right", min_width=5, max_width=12, overflow="fold")
    for title in ("change", "95 % interval", "p adj."):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for row in (*arm.rows, *arm.groups):
        table.add_row(
            words.task_name(row.task),
            words.value(row.metric, row.reference_value),
            words.value(row.metric, row.new_value),
            *_numbers(row),
            words.p_value(row.p_adjusted),
            _verdict(row),
            style="bold" if row.is_group else "",
        )
    return table


def print_results(results: Results, console: Console) -> None:
    """The question, one sentence per contrast, the verdict table, warnings and where the page lies."""
    console.print(f"\n{results.question}\n", style="bold", markup=False, highlight=False)
    arms = in_reading_order(results.arms)
    for arm in [arm for arm in arms if "contrast" in arm.kinds] or arms:
        line = words.sentence(arm, "base" in arm.kinds)
        console.print(line, markup=False, highlight=False)
    for entry in results.data.get("frontier", ()):
        for matched in entry["matched"]:
            line = words.at_equal_gain(Matched(**(matched | {"levels": ()})), entry["n_seeds"])
            console.print(line, markup=False, highlight=False)
    for name, say in (("win_rates", win_line), ("sequences", sequence_line), ("relearning", relearning_line)):
        for entry in results.data.get(name, ()):
            console.print(say(entry), markup=False, highlight=False)
    console.print()
    console.print(verdict_table(arms))
    for line in _distances(results.data.get("divergence", [])):
        console.print(line, markup=False, highlight=False)
    _print_notes([*words.worst_notes(arms), *words.notes(arms, results.warnings)], console)
    scopes = dict.fromkeys(arm.scope_caption for arm in arms)
    console.print(f"\npoints = hundredths of the score; scope: {'; '.join(scopes)}", style="dim", highlight=False)
    console.print(f"report: {results.page}", soft_wrap=True, markup=False, highlight=False)


def print_comparison(arm: ArmComparison, console: Console, sentence: str = "") -> None:
    """What `align compare A B` shows. sentence: the answer in words, where the usual ones do not fit."""
    console.print(sentence or words.sentence(arm), markup=False, highlight=False)
    console.print()
    console.print(task_table(arm))
    _print_notes([*arm.warnings, *(f"{row.task}: {text}" for row in arm.rows for text in row.warnings)], console)
    console.print(f"\nscope: {arm.scope_caption}", style="dim", highlight=False)


def in_reading_order(arms: Sequence[ArmComparison]) -> list[ArmComparison]:
    """The declared contrasts, then arms against their base; comparisons with a parent alone are left to the page."""
    contrasts = [arm for arm in arms if "contrast" in arm.kinds]
    return contrasts + [arm for arm in arms if arm not in contrasts and ("base" in arm.kinds or not arm.kinds)]


def _distances(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Forward KL of every arm on the target's inputs, a line per reference."""
    lines: dict[str, list[str]] = {}
    for entry in entries:
        if (entry["inputs"], entry["direction"]) == ("target", "forward"):
            value, low, high = (words.fixed(number) for number in (entry["per_sequence"], *entry["ci"]))
            lines.setdefault(entry["reference"], []).append(f"{entry['stage']} {value} ({low} to {high})")
    return [f"KL from {name}, nats a target answer: {', '.join(arms)}" for name, arms in lines.items()]


def _print_notes(notes: Sequence[str], console: Console) -> None:
    for note in notes:
        console.print(f"note: {note}", style="yellow", markup=False, highlight=False)


def _numbers(row: TaskComparison | None) -> list[str | Text]:
    if row is None:
        return ["–", ""]
    return [words.signed(row.metric, row.delta), words.interval(row.metric, row.estimate.ci95)]


def _verdict(row: TaskComparison | None) -> Text:
    return Text(str(row.verdict), STYLES.get(row.verdict.word, "")) if row else Text("–")
