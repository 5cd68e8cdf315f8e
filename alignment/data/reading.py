"""Files as rows: JSON Lines, JSON, CSV, Parquet, text, each also compressed by gzip. A bad line is named by its number."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignment.core.errors import DataError

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")
_SHOWN = 5


Numbered = tuple[int, Row]


def read_file(path: Path, where: str) -> tuple[list[Numbered], list[str]]:
    """Rows with their line numbers (places from 1 where a file has no lines), and what is wrong with the other lines.

    Raises DataError for a file that cannot be read as a whole.
    """
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if kind not in SUFFIXES:
        what = f"{path}: unknown kind of file {path.suffix!r}"
        raise DataError(where, what, f"one of {', '.join(SUFFIXES)}, each also as .gz", "convert or rename it")
    if not path.exists():
        raise DataError(where, f"{path} does not exist", "an existing file", "correct the path or the split")
    if kind == ".parquet":
        return list(enumerate(_read_parquet(path, where), 1)), []
    text = _read_text(path, where)
    match kind:
        case ".txt":
            return [(1, {"text": text})], []
        case ".json":
            return _parse_json_array(text, path, where)
        case ".csv" | ".tsv":
            return _parse_table(text, "," if kind == ".csv" else "\t", path, where)
    return _parse_jsonl(text)


def _read_parquet(path: Path, where: str) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(where, f"{path}: {error}", "a whole Parquet file", "write it again") from None


def _read_text(path: Path, where: str) -> str:
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(where, f"{path}: not UTF-8 at byte {error.start}", "UTF-8 text", "convert the file") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(where, f"{path}: {error}", "a whole gzip file", "fetch or write it again") from None


def _parse_table(text: str, delimiter: str, path: Path, where: str) -> tuple[list[Numbered], list[str]]:
    """CSV with a header; a cell may span lines."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[Numbered] = []
    bad: list[str] = []
    header: list[str] | None = None
    try:
        for cells in reader:
            if header is None:
                header = cells
                if not all(header) or len(set(header)) < len(header):
                    what = f"{path}: the first line names a column twice, or leaves a name out"
                    raise DataError(where, what, "a first line with a name for each column", "add it")
            elif len(cells) == len(header):
                rows.append((reader.line_num, dict(zip(header, cells, strict=True))))
            elif cells:
                bad.append(f"line {reader.line_num}: {len(cells)} cells under {len(header)} columns")
    except csv.Error as error:
        bad.append(f"line {reader.line_num}: {error}; what follows was not read")
    return rows, bad


def _parse_jsonl(text: str) -> tuple[list[Numbered], list[str]]:
    rows, bad = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            bad.append(f"line {number}: {error.msg} at column {error.colno}")
        except (RecursionError, ValueError) as error:  # nested too deep, or a number of too many digits
            bad.append(f"line {number}: {error}")
        else:
            if isinstance(row, dict):
                rows.append((number, row))
            else:
                bad.append(f"line {number}: a {type(row).__name__}, not an object")
    return rows, bad


def _parse_json_array(text: str, path: Path, where: str) -> tuple[list[Numbered], list[str]]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        what = f"{path}, line {error.lineno}: {error.msg}"
        raise DataError(where, what, "a JSON array of objects", "mend the file") from None
    except (RecursionError, ValueError) as error:
        raise DataError(where, f"{path}: {error}", "a JSON array of objects", "mend the file") from None
    if not isinstance(rows, list):
        what = f"{path} holds a {type(rows).__name__}"
        raise DataError(where, what, "a JSON array of objects", "use .jsonl for one object a line")
    bad = [
        f"row {n}: a {type(row).__name__}, not an object" for n, row in enumerate(rows, 1) if not isinstance(row, dict)
    ]
    return [(n, row) for n, row in enumerate(rows, 1) if isinstance(row, dict)], bad


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
