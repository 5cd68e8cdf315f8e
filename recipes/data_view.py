"""What `align data check` prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alignment.data.finding import Finding
from alignment.data.inspection import Inspection

_BAR, _BINS, _LISTED = 40, 12, 5
_STYLE = {"error": "red", "warning": "yellow", "note": "dim"}


def show(found: Inspection, about: str, out: Console) -> None:
    """about: the format in words."""

    def say(text: str, style: str = "") -> None:
        out.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    say(f"{found.source}: {_rows(found.rows)}, {f'{found.format} ({about})' if found.format else about}")
    for problem in found.bad[:_LISTED]:
        say(f"  cannot be read: {problem}", "red")
    if len(found.bad) > _LISTED:
        say(f"  ... and {len(found.bad) - _LISTED:,} more; `align data convert` lists them all", "red")
    if any(found.lengths):
        _histogram(found.lengths, found.unit, out)
    for finding in found.findings:
        _tell(finding, out)
    say(*("not fit as it is", "red") if found.failed else ("no errors found", "green"))


def _histogram(lengths: Sequence[int], unit: str, out: Console) -> None:
    low, high = min(lengths), max(lengths)
    width = max(1, -(-(high - low + 1) // _BINS))
    counts = [0] * ((high - low) // width + 1)
    for length in lengths:
        counts[(length - low) // width] += 1
    table = Table(unit, "rows", "", box=None, pad_edge=False)
    for place, count in enumerate(counts):
        first = low + place * width
        bar = "█" * max(count > 0, round(_BAR * count / max(counts)))
        table.add_row(str(first) if width == 1 else f"{first}-{first + width - 1}", f"{count:,}", bar)
    ordered = sorted(lengths)
    out.print(table)
    out.print(f"median {ordered[len(ordered) // 2]}, longest {high} {unit}", highlight=False)


def _tell(finding: Finding, out: Console) -> None:
    more = ", ..." if finding.count > _LISTED else ""
    lines = f"line{'s' * (finding.count > 1)} {', '.join(map(str, finding.lines[:_LISTED]))}{more}"
    where = f": {_rows(finding.count)} ({lines})" if finding.lines else ""
    line = (
        f"[{_STYLE[finding.severity]}]{finding.severity:8}[/] {finding.kind}{escape(where)}; {escape(finding.advice)}"
    )
    out.print(line, soft_wrap=True, highlight=False)
    for example in finding.examples:
        out.print(f"         {example}", style="dim", markup=False, highlight=False, soft_wrap=True)


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"
