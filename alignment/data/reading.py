"""Files as rows: JSON Lines, JSON, CSV, Parquet, text, each also compressed by gzip. One row at a time, so that a file may be larger
than memory (a JSON array or a text file may not); a bad line is named by its number."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from alignment.core.config import DataRef
from alignment.core.errors import DataError

Row = dict[str, Any]
Numbered = tuple[int, Row]
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")
_SHOWN = 5
_BATCH = 1000  # rows of a Parquet file in memory


Tell = Callable[[str], None]


def read_file(path: Path, where: str, tell: Tell) -> Iterator[Numbered]:
    """Rows with their line numbers (places from 1 where a file has no lines). What is wrong with each of the others is told.

    Raises DataError for a file that cannot be read as a whole.
    """
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if kind not in SUFFIXES:
        what = f"{path}: unknown kind of file {path.suffix!r}"
        raise DataError(where, what, f"one of {', '.join(SUFFIXES)}, each also as .gz", "convert or rename it")
    if not path.exists():
        raise DataError(where, f"{path} does not exist", "an existing file", "correct the path or the split")
    try:
        with cast(BinaryIO, gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as file:
            match kind:
                case ".parquet":
                    yield from _parquet(file, path, where)
                case ".txt":
                    yield 1, {"text": file.read().decode("utf-8-sig")}
                case ".json":
                    yield from _json_array(file, path, where, tell)
                case ".csv" | ".tsv":
                    yield from _table(file, "," if kind == ".csv" else "\t", path, where, tell)
                case _:
                    yield from _json_lines(file, tell)
    except UnicodeDecodeError as error:
        raise DataError(where, f"{path}: not UTF-8 at byte {error.start}", "UTF-8 text", "convert the file") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(where, f"{path}: {error}", "a whole gzip file", "fetch or write it again") from None
    except OSError as error:
        raise DataError(where, f"{path}: {error}", "a file that can be read", "mend or move it") from None


def _parquet(file: BinaryIO, path: Path, where: str) -> Iterator[Numbered]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        source = io.BytesIO(file.read()) if path.suffix == ".gz" else file  # Parquet is read from its end
        opened = pyarrow.parquet.ParquetFile(source)
        names = opened.schema_arrow.names
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(where, f"{path}: column {twice!r} stands twice", "columns of different names", "rename one")
        for batch in opened.iter_batches(_BATCH):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(where, f"{path}: {reason}", "a whole Parquet file", "write it again") from None


def _table(file: BinaryIO, delimiter: str, path: Path, where: str, tell: Tell) -> Iterator[Numbered]:
    """CSV with a header; a cell may span lines."""
    csv.field_size_limit(sys.maxsize)  # a cell may hold a long text
    reader = csv.reader(io.TextIOWrapper(file, "utf-8-sig", newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        first = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except UnicodeDecodeError:  # its place counts from somewhere inside the file
            what = f"{path}: not UTF-8 after line {reader.line_num}"
            raise DataError(where, what, "UTF-8 text", "convert the file") from None
        except csv.Error as error:
            if header is None:
                raise DataError(where, f"{path}: the first line: {error}", "names of columns", "mend it") from None
            last = reader.line_num
            tell(f"line {last}: {error}" if first >= last else f"lines {first} to {last}: {error}")
            continue
        if not cells:
            continue
        if header is None:
            header = cells
            if not all(header) or len(set(header)) < len(header):
                what = f"{path}: the first line names a column twice, or leaves a name out"
                raise DataError(where, what, "a first line with a name for each column", "add it")
        elif len(cells) == len(header):
            yield reader.line_num, dict(zip(header, cells, strict=True))
        else:
            tell(f"line {reader.line_num}: {len(cells)} cells under {len(header)} columns")


def _json_lines(file: BinaryIO, tell: Tell) -> Iterator[Numbered]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = _parsed(line, "utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            tell(f"line {number}: not UTF-8 at byte {error.start}")
        except json.JSONDecodeError as error:
            tell(f"line {number}: {error.msg} at column {error.colno}")
        except (RecursionError, ValueError) as error:  # nested too deep, or a number of too many digits
            tell(f"line {number}: {error}")
        else:
            if isinstance(row, dict):
                yield number, row
            else:
                tell(f"line {number}: a {type(row).__name__}, not an object")


def _json_array(file: BinaryIO, path: Path, where: str, tell: Tell) -> Iterator[Numbered]:
    try:
        rows = _parsed(file.read(), "utf-8-sig")
    except json.JSONDecodeError as error:
        what = f"{path}, line {error.lineno}: {error.msg}"
        raise DataError(where, what, "a JSON array of objects", "mend the file") from None
    except UnicodeDecodeError:
        raise
    except (RecursionError, ValueError) as error:
        raise DataError(where, f"{path}: {error}", "a JSON array of objects", "mend the file") from None
    if not isinstance(rows, list):
        what = f"{path} holds a {type(rows).__name__}"
        raise DataError(where, what, "a JSON array of objects", "use .jsonl for one object a line")
    for number, row in enumerate(rows, 1):
        if isinstance(row, dict):
            yield number, row
        else:
            tell(f"row {number}: a {type(row).__name__}, not an object")


def _parsed(data: bytes, encoding: str) -> Any:
    """JSON. Raises ValueError also for what Python would let pass: a key that stands twice, half of a surrogate pair."""
    value = json.loads(data.decode(encoding), object_pairs_hook=_object)
    if b"\\ud" in data.lower():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("half of a surrogate pair, which is no character") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> Row:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice!r} stands twice")
    return made


def has_lines(path: Path) -> bool:
    """Whether rows are told by their lines: else by their places."""
    return not {".parquet", ".json"} & set(path.suffixes)


def resolve_paths(ref: DataRef, where: str) -> list[Path]:
    """The files of a `path` reference, environment variables filled in. Raises DataError if one is missing."""
    names = [ref.path] if isinstance(ref.path, str) else list(ref.path or [])
    paths = [existing_path(name, where) for name in names]
    for path in paths:
        if not path.is_file():
            raise DataError(where, f"{path} is a folder", "a file, or a list of files", "name the files")
    return paths


def existing_path(name: str, where: str) -> Path:
    """`name` with environment variables and ~ filled in. Raises DataError if a variable is unset or nothing is there."""
    expanded = os.path.expandvars(os.path.expanduser(name))
    if "$" in expanded:
        variable = expanded[expanded.index("$") :].strip("${").split("}")[0].split("/")[0]
        raise DataError(
            where,
            f"environment variable {variable} in {name!r} is not set",
            "a set variable",
            f"export {variable}=/path/to/it",
        )
    path = Path(expanded)
    try:
        there = path.exists()
    except (OSError, ValueError) as error:  # a name that no file can have
        raise DataError(
            where, f"{expanded[:80]!r}: {error}", "an existing file or folder", "correct the path"
        ) from None
    if not there:
        raise DataError(where, f"{expanded} does not exist", "an existing file or folder", "correct the path")
    return path


def raise_bad(bad: Sequence[str], source: object, where: str, expected: str) -> None:
    """One DataError that lists what is wrong with some rows, if there are any."""
    if bad:
        remedy = "mend these rows, or leave them out with `on_error: skip`"
        raise DataError(where, f"{source}: {told(bad)}", expected, remedy)


def told(bad: Sequence[str]) -> str:
    """How many bad rows, and the first of them."""
    more = f"\n    ... and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    listed = "".join(f"\n    {problem}" for problem in bad[:_SHOWN])
    return f"{len(bad)} bad row{'s' * (len(bad) > 1)}:{listed}{more}"
