"""The run as people see it: a live table in a terminal, plain lines elsewhere; each with what is left to wait."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from alignment.core.artifact import Artifact
from alignment.core.errors import SuiteError
from recipes.estimate import Estimate
from recipes.plan import Cell
from recipes.runner import Outcome, Running

_LINE_EVERY = 15.0
_BAR = 40  # columns at most
_GAP = 2
_WORDS = {"kl": "KL"}  # the live numbers' names, where people write them otherwise
_PER_SECOND = "_tps"  # ending of the tokens per second of a phase, in the live numbers


class LiveDisplay:
    """Implements the runner's `Display`. Use as a context manager."""

    def __init__(self, console: Console, estimate: Estimate, total: int) -> None:
        self.console, self.estimate, self.total = console, estimate, total
        self.started_at = self.last_line = time.time()
        self.live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self.noted: dict[str, str] = {}

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
            cells = cells_view([(one.cell.label, one.progress()) for one in running], self.console.width)
            self.live.update(Group(cells, Text(status, style="bold")))
            return
        for one in running:
            note = one.progress().get("note")
            if note and self.noted.get(one.cell.label) != note:
                self.noted[one.cell.label] = note
                self._say(f"[yellow]warning[/] {one.cell.label}: {escape(note)}")
        if time.time() - self.last_line > _LINE_EVERY:
            self.last_line = time.time()
            cells = "; ".join(f"{r.cell.label} {_step(r.progress())}" for r in running)
            self.console.print(f"{status} | {cells}", soft_wrap=True, highlight=False)

    def _say(self, line: str) -> None:
        elapsed = time.time() - self.started_at
        self.console.print(f"[dim]{elapsed:5.0f} s[/] {line}", soft_wrap=True, highlight=False)


def cells_view(states: Sequence[tuple[str, dict[str, Any]]], width: int) -> RenderableType:
    """Running cells by label, each with its `progress.json`: how far it is, and below, as far as it tells them, its numbers,
    its speeds and its last warning. width: columns of the terminal."""
    heads = [(label, state.get("phase", ""), _step(state)) for label, state in states]
    columns = [max((len(head[place]) for head in heads), default=0) for place in range(3)]
    bar = min(_BAR, max(4, width - sum(columns) - 3 * _GAP))
    parts: list[RenderableType] = []
    for (label, phase, step), (_, state) in zip(heads, states, strict=True):
        head = Table.grid(padding=(0, _GAP))
        head.add_row(
            Text(label.ljust(columns[0]), no_wrap=True),
            Text(phase.ljust(columns[1]), style="dim", no_wrap=True),
            ProgressBar(
                total=state.get("total") or (None if state.get("done") else 1),
                completed=state.get("done", 0),
                width=bar,
            ),
            Text(step, no_wrap=True),
        )
        parts += [head, *(Padding(line, (0, 0, 0, _GAP)) for line in _details(state))]
    return Group(*parts)


def _details(state: dict[str, Any]) -> list[Text]:
    live: dict[str, float] = state.get("live", {})
    speeds = {name.removesuffix(_PER_SECOND): value for name, value in live.items() if name.endswith(_PER_SECOND)}
    numbers = [
        f"{_WORDS.get(name, name)} {value:.3g}" for name, value in live.items() if not name.endswith(_PER_SECOND)
    ]
    lines = [Text("  ".join(numbers), style="cyan")] if numbers else []
    if speeds:
        words = "  ".join(f"{phase} {_short(value)}" for phase, value in speeds.items())
        lines.append(Text(f"tokens/s: {words}", style="dim cyan"))
    return lines + ([Text(state["note"], style="yellow")] if state.get("note") else [])


def _step(state: dict[str, Any]) -> str:
    """`120/300, 14 s left`, from the pace of the current phase in this process: a resumed cell begins in its midst. Of how many is
    not known of every phase."""
    done, total = state.get("done", 0), state.get("total", 0)
    if not total:
        return f"{done:,}" if done else "starting"
    made = done - state["phase_first"]
    pace = (time.time() - state["phase_started"]) / made if made else None
    return f"{done}/{total}" + (f", {_minutes(pace * (total - done))} left" if pace is not None else "")


def _short(number: float) -> str:
    """Three digits at most: 73, 1.2k, 12k, 3.4M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            return f"{number / size:.{1 if number < 9.95 * size else 0}f}{letter}"
    return f"{number:.0f}"


def _minutes(seconds: float | None) -> str:
    if seconds is None:
        return "an unknown time"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def _numbers(summary: object) -> str:
    """A few numbers of a summary, for one line."""
    items = summary.items() if isinstance(summary, dict) else []
    plain = [(name, value) for name, value in items if isinstance(value, int | float) and not isinstance(value, bool)]
    return "  ".join(f"{name} {value:.4g}" for name, value in plain[:5])
