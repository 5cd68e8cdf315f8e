"""`align data check | convert | clean | split`: look at a data set before anything is trained on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from alignment.core.config import DataRef
from alignment.core.errors import RecipeError
from alignment.data.cleaning import Remark, Rules, clean, split
from alignment.data.inspection import Inspection, inspect, overlap
from alignment.data.rows import Read, read_rows, write_rows
from alignment.data.texts import wording
from recipes.data_view import show

app = typer.Typer(help="Look at data, convert, clean and split it.", no_args_is_help=True, rich_markup_mode=None)
out = Console()

Files = Annotated[
    list[str], typer.Argument(help="files of one data set: JSONL, JSON, CSV, Parquet, text, also .gz; or hub:NAME")
]
Columns = Annotated[
    list[str] | None, typer.Option("--column", help="our name of a column and theirs: --column prompt=question")
]
FormatName = Annotated[str | None, typer.Option("--format", help="read as this format instead of the one detected")]
Split = Annotated[
    str | None,
    typer.Option("--split", help="of a hub data set, such as train_sft; of files: train, validation or test by hash"),
]
Subset = Annotated[str | None, typer.Option("--subset", help="of a hub data set that has several, such as main")]
Tokenizer = Annotated[str | None, typer.Option(help="model folder: lengths in its tokens; none = in words")]
Against = Annotated[
    list[str] | None, typer.Option(help="files that must share nothing with the data: validation rows, test items")
]
Tasks = Annotated[
    list[str] | None, typer.Option("--tasks-of", help="recipes whose evaluation tasks must share nothing with the data")
]
Target = Annotated[
    Path, typer.Option("--out", help="file or folder to write to; what is there already is not replaced")
]


@app.command()
def check(
    files: Files,
    columns: Columns = None,
    format: FormatName = None,
    part: Split = None,
    subset: Subset = None,
    tokenizer: Tokenizer = None,
    max_length: Annotated[int | None, typer.Option(min=1, help="rows longer than this are told")] = None,
    against: Against = None,
    tasks_of: Tasks = None,
    as_json: Annotated[bool, typer.Option("--json", help="everything as one JSON object")] = False,
) -> None:
    """What the data are, what is wrong with them, and what to do. Exit code 1 where rows cannot be used as they are."""
    read, count = _read(files, columns, format, part, subset), _counter(tokenizer)
    texts = _texts(against, tasks_of)
    with _busy(f"looking at {len(read.rows):,} rows"):
        lengths, findings = inspect(read.rows, read.format, count, max_length)
        if shared := overlap(read.rows, texts):
            findings = [shared, *findings]
    unit = "tokens" if tokenizer else "words"
    found = Inspection(read.source, read.format, len(read.rows), read.bad, lengths, unit, findings)
    if as_json:
        print(json.dumps(asdict(found) | {"failed": found.failed}, ensure_ascii=False))
    else:
        show(found, read.about, out)
    if found.failed:
        raise typer.Exit(1)


@app.command()
def convert(
    files: Files,
    target: Target,
    columns: Columns = None,
    format: FormatName = None,
    part: Split = None,
    subset: Subset = None,
) -> None:
    """Write the data as the suite's own rows, JSON Lines. Rows that cannot be read are listed in a file beside."""
    read = _read(files, columns, format, part, subset)
    _refuse_existing(target)
    write_rows([row for _, row in read.rows], target)
    _say(f"{len(read.rows):,} rows ({read.format or 'no known format'}) to {target}")
    _list(target, "dropped", "left out", read.bad)


@app.command(name="clean")
def clean_(
    files: Files,
    target: Target,
    columns: Columns = None,
    format: FormatName = None,
    part: Split = None,
    subset: Subset = None,
    tokenizer: Tokenizer = None,
    longest: Annotated[int | None, typer.Option(min=1, help="drop longer rows")] = None,
    keep_duplicates: Annotated[bool, typer.Option(help="keep rows that say the same again")] = False,
    strip: Annotated[bool, typer.Option(help="take white space from both ends of texts")] = False,
    redact: Annotated[bool, typer.Option(help="put [e-mail address] and the like for secrets, personal data")] = False,
    against: Against = None,
    tasks_of: Tasks = None,
) -> None:
    """Drop and repair rows by rules; every row dropped or changed is listed with its reason in a file beside."""
    read = _read(files, columns, format, part, subset)
    _refuse_existing(target)
    count = _counter(tokenizer) or (lambda text: len(text.split()))
    texts = _texts(against, tasks_of)
    rules = Rules(duplicates=not keep_duplicates, longest=longest, against=texts, strip=strip, redact=redact)
    with _busy(f"cleaning {len(read.rows):,} rows"):
        cleaned = clean(read.rows, rules, count)
    write_rows(cleaned.rows, target)
    _say(f"{len(cleaned.rows):,} of {len(read.rows) + len(read.bad):,} rows to {target}")
    _list(target, "dropped", "left out", [*read.bad, *_told(cleaned.dropped)])
    _list(target, "repaired", "repaired", _told(cleaned.repaired))


@app.command(name="split")
def split_(
    files: Files,
    target: Target,
    shares: Annotated[str, typer.Option(help="of train, validation and test")] = "0.8,0.1,0.1",
    columns: Columns = None,
    format: FormatName = None,
    part: Split = None,
    subset: Subset = None,
) -> None:
    """Write train.jsonl, validation.jsonl and test.jsonl, by a hash of the prompt: one prompt never sits on both sides."""
    wanted = _shares(shares)
    read = _read(files, columns, format, part, subset)
    parts = split([row for _, row in read.rows], wanted)
    for name in parts:
        _refuse_existing(target / f"{name}.jsonl")
    for name, rows in parts.items():
        write_rows(rows, target / f"{name}.jsonl")
    _say(", ".join(f"{name} {len(rows):,}" for name, rows in parts.items()) + f" rows to {target}")
    _list(target / "rows", "dropped", "left out", read.bad)


def _read(
    files: Sequence[str], columns: Sequence[str] | None, format: str | None, part: str | None, subset: str | None
) -> Read:
    pairs = [column.partition("=") for column in columns or []]
    for ours, equals, theirs in pairs:
        if not (ours and equals and theirs):
            raise RecipeError(
                f"--column {ours}", "not of the form ours=theirs", "for example prompt=question", "mend it"
            )
    if subset is not None and not files[0].startswith("hub:"):
        raise RecipeError("--subset", "of files", "a hub data set: hub:NAME", "remove it")
    mapped = {ours: theirs for ours, _, theirs in pairs}
    with _busy("reading"):
        ref = _reference(files, columns=mapped, format=format, split=part, subset=subset)
        return read_rows(ref, where="data")


def _reference(files: Sequence[str], **reading: Any) -> DataRef:
    hub = [file.removeprefix("hub:") for file in files if file.startswith("hub:")]
    if hub and len(files) > 1:
        raise RecipeError(
            " ".join(files), "a hub data set among other sources", "one hub data set, or files", "drop some"
        )
    if "" in hub:
        raise RecipeError("hub:", "no name", "hub:NAME, for example hub:tatsu-lab/alpaca", "add the name")
    source = {"hub": hub[0]} if hub else {"path": list(files)}
    return DataRef.model_validate(source | {"on_error": "skip"} | reading)


def _texts(files: Sequence[str] | None, recipes: Sequence[str] | None) -> list[str]:
    """What the rows of other files say, by all their texts where they are of no known format; and the items of recipes' tasks."""
    texts = []
    for file in files or []:
        for _, row in read_rows(_reference([file]), where="--against").rows:
            texts.append(wording(row))
    for recipe in recipes or []:
        from recipes.task_texts import task_texts  # needs lm-eval, which takes seconds to load

        with _busy(f"reading the tasks of {recipe}"):
            found = task_texts(recipe)
        for name, why in found.left_out.items():
            _say(f"task {name} is not compared: {why}", "yellow")
        texts += found.texts
    return texts


def _counter(tokenizer: str | None) -> Callable[[str], int] | None:
    """Tokens of a text, by the tokenizer of a model folder."""
    if tokenizer is None:
        return None
    from tokenizers import Tokenizer

    path = Path(tokenizer) / "tokenizer.json" if Path(tokenizer).is_dir() else Path(tokenizer)
    expected = "a model folder with tokenizer.json, or that file"
    if not path.is_file():
        raise RecipeError("--tokenizer", f"{path} does not exist", expected, "correct the path")
    try:
        loaded: Any = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise RecipeError("--tokenizer", f"{path}: {error}", expected, "name another") from None
    return lambda text: len(loaded.encode(text).ids)


def _shares(text: str) -> tuple[float, float, float]:
    try:
        train, validation, test = (float(part) for part in text.split(","))
    except ValueError:
        raise RecipeError("--shares", f"{text!r} is not three numbers", "for example 0.8,0.1,0.1", "mend it") from None
    if not (min(train, validation, test) >= 0 and abs(train + validation + test - 1) <= 1e-9):
        raise RecipeError("--shares", f"{text} do not sum to 1", "for example 0.8,0.1,0.1", "mend them")
    return train, validation, test


def _refuse_existing(path: Path) -> None:
    if path.suffix != ".jsonl":
        raise RecipeError("--out", f"{path}: rows are written as JSON Lines", "a name that ends in .jsonl", "rename it")
    if path.exists():
        raise RecipeError("--out", f"{path} is there already", "a new file", "name another, or move it away")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        path.unlink()  # that was to see whether it can be written, before long work
    except OSError as error:
        raise RecipeError("--out", str(error), "a folder that can be written", "name another") from None


def _told(remarks: Sequence[Remark]) -> list[str]:
    return [f"line {one.line}: {one.reason}" for one in remarks]


def _list(target: Path, kind: str, done: str, reasons: Sequence[str]) -> None:
    if not reasons:
        return
    path = target.with_name(f"{target.stem}.{kind}.txt")
    path.write_text("\n".join(reasons) + "\n", encoding="utf-8")
    rows = f"{len(reasons):,} row{'s' * (len(reasons) > 1)}"
    _say(f"{rows} {done}, each with its reason in {path}", "yellow")


def _say(text: str, style: str = "") -> None:
    out.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _busy(what: str) -> Iterator[None]:
    """Says on a terminal what takes so long."""
    with Console(stderr=True).status(what):
        yield
