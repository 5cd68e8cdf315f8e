"""The run as people see it: a live table in a terminal, plain lines elsewhere; each with what is left to wait."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from alignment.core.artifact import Artifact
from alignment.core.errors import SuiteError
from recipes.estimate import Estimate
from recipes.plan import Cell
from recipes.runner import Outcome, Running

_LINE_EVERY = 15.0


class LiveDisplay:
    """Implements the runner's `Display`. Use as a context manager."""

    def __init__(self, console: Console, estimate: Estimate, total: int) -> None:
        self.console, self.estimate, self.total = console, estimate, total
        self.started_at = self.last_line = time.time()
        self.live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> LiveDisplay:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def loading(self, seconds: float) -> None:
        message = f"loading torch, transformers, trl, vLLM (10 to 20 s, once a run): {seconds:.0f} s"
        if self.live:
            self.live.update(Text(message, style="dim"))
        elif seconds < 0.1:
            self.console.print("loading torch, transformers, trl, vLLM (10 to 20 s, once a run)")

    def started(self, cell: Cell, resumed: bool) -> None:
        self._say(f"{'resume' if resumed else 'start '} {cell.label}")

    def finished(self, cell: Cell, artifact: Artifact) -> None:
        seconds = artifact.provenance.get("seconds", 0.0)
        self.estimate.learn(cell, seconds)
        self._say(f"[green]done  [/] {cell.label}  [dim]{seconds:.0f} s  {escape(_numbers(artifact.summary))}[/]")

    def failed(self, cell: Cell, error: SuiteError) -> None:
        self._say(f"[red]failed[/] {cell.label}: {escape(error.what.splitlines()[0])}")

    def refresh(self, running: Sequence[Running], outcome: Outcome, waiting: Sequence[Cell]) -> None:
        left = self.estimate.seconds_left(running, waiting)
        elapsed = time.time() - self.started_at
        status = (
            f"{len(outcome.artifacts)} of {self.total} cells done, {len(running)} running, "
            f"{_minutes(elapsed)} so far, about {_minutes(left)} left"
        )
        if self.live:
            self.live.update(Group(_table(running), Text(status, style="bold")))
        elif time.time() - self.last_line > _LINE_EVERY:
            self.last_line = time.time()
            cells = "; ".join(f"{r.cell.label} {_step(r.progress())}" for r in running)
            self.console.print(f"{status} | {cells}", soft_wrap=True, highlight=False)

    def _say(self, line: str) -> None:
        elapsed = time.time() - self.started_at
        self.console.print(f"[dim]{elapsed:5.0f} s[/] {line}", soft_wrap=True, highlight=False)


def _table(running: Sequence[Running]) -> Table:
    table = Table.grid(padding=(0, 2))
    for one in running:
        state = one.progress()
        done, total = state.get("done", 0), state.get("total", 0)
        bar = ProgressBar(total=total or 1, completed=done, width=24)
        live = "  ".join(f"{name} {value:.3g}" for name, value in state.get("live", {}).items())
        table.add_row(
            one.cell.label,
            Text(state.get("phase", "starting"), style="dim"),
            bar,
            _step(state),
            Text(live, style="cyan"),
        )
    return table


def _step(state: dict) -> str:
    """`120/300, 14 s left`, from the pace of the current phase."""
    done, total = state.get("done", 0), state.get("total", 0)
    if not total:
        return "starting"
    spent = time.time() - state["phase_started"]
    left = f", {spent / done * (total - done):.0f} s left" if done else ""
    return f"{done}/{total}{left}"


def _minutes(seconds: float | None) -> str:
    if seconds is None:
        return "an unknown time"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def _numbers(summary: object) -> str:
    """A few numbers of a summary, for one line."""
    items = summary.items() if isinstance(summary, dict) else []
    plain = [(name, value) for name, value in items if isinstance(value, int | float) and not isinstance(value, bool)]
    return "  ".join(f"{name} {value:.4g}" for name, value in plain[:5])
