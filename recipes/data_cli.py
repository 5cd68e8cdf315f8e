"""`align data check | convert | clean | split`: look at a data set before anything is trained on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alignment.core.config import DataRef
from alignment.core.errors import RecipeError
from alignment.data.cleaning import Rules, clean, split
from alignment.data.formats import FORMATS
from alignment.data.inspection import Finding, Inspection, inspect, overlap, text_of
from alignment.data.rows import Read, read_rows, write_rows

app = typer.Typer(help="Look at data, convert, clean and split it.", no_args_is_help=True, rich_markup_mode=None)
out = Console()

Files = Annotated[list[str], typer.Argument(help="files of one data set: JSONL, JSON, CSV, Parquet, text, also .gz")]
Columns = Annotated[
    list[str] | None, typer.Option("--column", help="our name of a column and theirs: --column prompt=question")
]
FormatName = Annotated[str | None, typer.Option("--format", help="read as this format instead of the one detected")]
Tokenizer = Annotated[str | None, typer.Option(help="model folder: lengths in its tokens; none = in words")]
Against = Annotated[
    list[str] | None, typer.Option(help="files that must share nothing with the data: validation rows, test items")
]
Target = Annotated[
    Path, typer.Option("--out", help="file or folder to write to; what is there already is not replaced")
]
_BAR, _BINS = 40, 12
_STYLE = {"error": "red", "warning": "yellow", "note": "dim"}


@app.command()
def check(
    files: Files,
    columns: Columns = None,
    format: FormatName = None,
    tokenizer: Tokenizer = None,
    max_length: Annotated[int | None, typer.Option(min=1, help="rows longer than this are told")] = None,
    against: Against = None,
    as_json: Annotated[bool, typer.Option("--json", help="everything as one JSON object")] = False,
) -> None:
    """What the data are, what is wrong with them, and what to do. Exit code 1 where rows cannot be used as they are."""
    read = _read(files, columns, format)
    lengths, findings = inspect(read.rows, read.format, _counter(tokenizer), max_length)
    if shared := overlap(read.rows, _texts(against)):
        findings = [shared, *findings]
    unit = "tokens" if tokenizer else "words"
    found = Inspection(read.source, read.format, len(read.rows), read.bad, lengths, unit, findings)
    if as_json:
        print(json.dumps(asdict(found) | {"failed": found.failed}, ensure_ascii=False))
    else:
        _show(found)
    if found.failed:
        raise typer.Exit(1)


@app.command()
def convert(files: Files, target: Target, columns: Columns = None, format: FormatName = None) -> None:
    """Write the data as the suite's own rows, JSON Lines. Rows that cannot be read are listed in a file beside."""
    read = _read(files, columns, format)
    _refuse_existing(target)
    write_rows([row for _, row in read.rows], target)
    out.print(
        f"{len(read.rows):,} rows ({read.format or 'no known format'}) to {target}", highlight=False, soft_wrap=True
    )
    _list_dropped(target, read.bad)


@app.command(name="clean")
def clean_(
    files: Files,
    target: Target,
    columns: Columns = None,
    format: FormatName = None,
    tokenizer: Tokenizer = None,
    longest: Annotated[int | None, typer.Option(min=1, help="drop longer rows")] = None,
    keep_duplicates: Annotated[bool, typer.Option(help="keep rows that say the same again")] = False,
    against: Against = None,
) -> None:
    """Drop rows by rules; every dropped row is listed with its reason in a file beside."""
    read = _read(files, columns, format)
    _refuse_existing(target)
    count = _counter(tokenizer) or (lambda text: len(text.split()))
    rules = Rules(duplicates=not keep_duplicates, longest=longest, against=_texts(against))
    kept, dropped = clean(read.rows, rules, count)
    write_rows(kept, target)
    out.print(f"{len(kept):,} of {len(read.rows) + len(read.bad):,} rows to {target}", highlight=False, soft_wrap=True)
    _list_dropped(target, [*read.bad, *(f"line {one.line}: {one.reason}" for one in dropped)])


@app.command(name="split")
def split_(
    files: Files,
    target: Target,
    shares: Annotated[str, typer.Option(help="of train, validation and test")] = "0.8,0.1,0.1",
    columns: Columns = None,
    format: FormatName = None,
) -> None:
    """Write train.jsonl, validation.jsonl and test.jsonl, by a hash of the prompt: one prompt never sits on both sides."""
    read = _read(files, columns, format)
    parts = split([row for _, row in read.rows], _shares(shares))
    for name in parts:
        _refuse_existing(target / f"{name}.jsonl")
    target.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        write_rows(rows, target / f"{name}.jsonl")
    out.print(
        ", ".join(f"{name} {len(rows):,}" for name, rows in parts.items()) + f" rows to {target}", highlight=False
    )
    _list_dropped(target / "rows", read.bad)


def _read(files: Sequence[str], columns: Sequence[str] | None, format: str | None) -> Read:
    pairs = [column.partition("=") for column in columns or []]
    for ours, equals, theirs in pairs:
        if not (ours and equals and theirs):
            raise RecipeError(
                f"--column {ours}", "not of the form ours=theirs", "for example prompt=question", "mend it"
            )
    mapped = {ours: theirs for ours, _, theirs in pairs}
    return read_rows(_skipping(list(files), columns=mapped, format=format), where="data")


def _skipping(path: str | list[str], **reading: Any) -> DataRef:
    return DataRef.model_validate({"path": path, "on_error": "skip"} | reading)


def _texts(files: Sequence[str] | None) -> list[str]:
    """What the rows of other files say; rows of no known format by all their texts."""
    texts = []
    for file in files or []:
        for _, row in read_rows(_skipping(file), where="--against").rows:
            texts.append(text_of(row) or "\n".join(value for value in row.values() if isinstance(value, str)))
    return texts


def _counter(tokenizer: str | None) -> Callable[[str], int] | None:
    """Tokens of a text, by the tokenizer of a model folder."""
    if tokenizer is None:
        return None
    from tokenizers import Tokenizer

    path = Path(tokenizer) / "tokenizer.json" if Path(tokenizer).is_dir() else Path(tokenizer)
    if not path.is_file():
        expected = "a model folder with tokenizer.json, or that file"
        raise RecipeError("--tokenizer", f"{path} does not exist", expected, "correct the path")
    loaded: Any = Tokenizer.from_file(str(path))
    return lambda text: len(loaded.encode(text).ids)


def _shares(text: str) -> tuple[float, float, float]:
    try:
        train, validation, test = (float(part) for part in text.split(","))
    except ValueError:
        raise RecipeError("--shares", f"{text!r} is not three numbers", "for example 0.8,0.1,0.1", "mend it") from None
    if min(train, validation, test) < 0 or abs(train + validation + test - 1) > 1e-9:
        raise RecipeError("--shares", f"{text} do not sum to 1", "for example 0.8,0.1,0.1", "mend them")
    return train, validation, test


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise RecipeError("--out", f"{path} is there already", "a new file", "name another, or move it away")
    path.parent.mkdir(parents=True, exist_ok=True)


def _list_dropped(target: Path, reasons: Sequence[str]) -> None:
    if not reasons:
        return
    path = target.with_name(f"{target.stem}.dropped.txt")
    path.write_text("\n".join(reasons) + "\n", encoding="utf-8")
    out.print(
        f"{len(reasons):,} rows left out, each with its reason in {path}",
        style="yellow",
        highlight=False,
        soft_wrap=True,
    )


def _show(found: Inspection) -> None:
    about = next((shape.about for shape in FORMATS if shape.name == found.format), "rows of no known format")
    out.print(
        f"{found.source}: {found.rows:,} rows, {found.format or '?'} ({about})",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    for problem in found.bad[:5]:
        out.print(f"  cannot be read: {problem}", style="red", markup=False, highlight=False, soft_wrap=True)
    if len(found.bad) > 5:
        out.print(f"  ... and {len(found.bad) - 5} more", style="red", highlight=False)
    if found.lengths:
        _histogram(found.lengths, found.unit)
    for finding in found.findings:
        _tell(finding)
    out.print("not fit as it is" if found.failed else "no errors found", style="red" if found.failed else "green")


def _histogram(lengths: Sequence[int], unit: str) -> None:
    low, high = min(lengths), max(lengths)
    width = max(1, -(-(high - low + 1) // _BINS))
    counts = [0] * ((high - low) // width + 1)
    for length in lengths:
        counts[(length - low) // width] += 1
    table = Table(unit, "rows", "", box=None, pad_edge=False)
    for place, count in enumerate(counts):
        first = low + place * width
        table.add_row(
            f"{first}-{first + width - 1}", f"{count:,}", "█" * max(count > 0, round(_BAR * count / max(counts)))
        )
    ordered = sorted(lengths)
    out.print(table)
    out.print(f"median {ordered[len(ordered) // 2]}, longest {high} {unit}", highlight=False)


def _tell(finding: Finding) -> None:
    where = (
        f" (lines {', '.join(map(str, finding.lines[:5]))}{', ...' if finding.count > 5 else ''})"
        if finding.lines
        else ""
    )
    count = f"{finding.count:,} " if finding.count else ""
    line = f"[{_STYLE[finding.severity]}]{finding.severity:8}[/] {count}{finding.kind}{where}: {escape(finding.advice)}"
    out.print(line, soft_wrap=True, highlight=False)
    for example in finding.examples:
        out.print(f"         {example}", style="dim", markup=False, highlight=False, soft_wrap=True)
