"""Reading rows: from files, a stage's data set, the hub or the lab. No torch; a bad row names its file, line and field."""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.core.artifact import Artifact
from alignment.core.config import DataRef
from alignment.core.errors import DataError
from alignment.data.formats import FORMATS, NAMES, Format, detect, renamed
from alignment.data.reading import raise_bad, read_file, told

Row = dict[str, Any]
SPLITS = ("train", "validation", "test")
_logger = logging.getLogger(__name__)


def load_rows(
    ref: DataRef, artifact: Artifact | None = None, fields: Sequence[str] = (), where: str = "data"
) -> list[Row]:
    """All rows that `ref` names, in the suite's own form, each checked to hold every one of `fields` as non-empty text or messages.

    artifact: the data set when `ref.stage` is set; for a hub reference its digest is the resolved commit.
    where: what error messages call this reference, e.g. `stages.sft.data`.
    Raises DataError for a missing, empty or malformed source; bad rows are left out, and told, under `on_error: skip`.
    """
    read = read_rows(ref, artifact, where)
    bad = [*read.bad, *_without(read.rows, fields)]
    if ref.on_error == "stop":
        expected = f"each row to hold {', '.join(fields)}" if fields else "rows that can be read"
        raise_bad(bad, read.source, where, expected)
        return [row for _, row in read.rows]
    if bad:
        _logger.warning("%s: left out of %s: %s", where, read.source, told(bad))
    kept = [row for number, row in read.rows if not _without([(number, row)], fields)]
    if not kept:
        raise DataError(where, f"{read.source}: no good row; {told(bad)}", "at least one", "mend them")
    return kept


@dataclass(frozen=True)
class Read:
    """rows: with line numbers, in the suite's own form. bad: what is wrong with the others. format: what they were found to be."""

    source: str
    format: str
    rows: list[tuple[int, Row]]
    bad: list[str]


def read_rows(ref: DataRef, artifact: Artifact | None = None, where: str = "data") -> Read:
    """What `ref` names, read and converted, nothing left out unsaid. Raises DataError for what cannot be read as a whole."""
    source, numbered, bad = _raw(ref, artifact, where)
    shape = _format(ref, numbered, where)
    rows: list[tuple[int, Row]] = []
    for number, row in numbered:
        try:
            own = renamed(row, ref.columns) if ref.columns else row
            rows += [(number, made) for made in (shape.convert(own) if shape is not None else [own])]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            bad.append(f"line {number}: {error}")
    if ref.split is not None and ref.path is not None:
        rows = [(number, row) for number, row in rows if split_of(_key(row), where, ref.split) == ref.split]
    if not rows and (not bad or ref.split is not None):
        raise DataError(
            where, f"{source} holds no rows", "at least one row", "check the file, the split and the filter"
        )
    return Read(source, shape.name if shape is not None else "", rows[: ref.rows], bad)


def _raw(ref: DataRef, artifact: Artifact | None, where: str) -> tuple[str, list[tuple[int, Row]], list[str]]:
    """The rows as they are kept, and where that is."""
    if ref.stage is not None:
        assert artifact is not None, f"{where}: the runner did not hand in the data set of stage {ref.stage}"
        path = artifact.path / f"{ref.split or 'train'}.jsonl"
        return str(path), *read_file(path, where)
    if ref.lab is not None:
        from alignment.lab import data as lab

        if not lab.known(ref.lab):
            raise DataError(
                where, f"the lab has no data set {ref.lab!r}", f"one of {', '.join(lab.NAMES)}", "correct the name"
            )
        return f"lab:{ref.lab}", list(enumerate(lab.rows(ref.lab, ref.split or "train"), 1)), []
    if ref.hub is not None:
        rows = _read_hub(ref, where, artifact.digest if artifact else ref.revision)
        return f"hub:{ref.hub}", list(enumerate(rows, 1)), []
    numbered, bad = [], []
    for path in (paths := resolve_paths(ref, where)):
        rows, wrong = read_file(path, where)
        numbered += rows
        bad += [f"{path.name}, {problem}" for problem in wrong] if len(paths) > 1 else wrong
    return ", ".join(map(str, paths)), numbered, bad


def _format(ref: DataRef, numbered: Sequence[tuple[int, Row]], where: str) -> Format | None:
    """The one that the recipe names, else the one that the first row fits. Raises DataError for a name that there is not."""
    if ref.format is not None:
        named = [shape for shape in FORMATS if shape.name == ref.format]
        if not named:
            raise DataError(f"{where}.format", f"no format {ref.format!r}", f"one of {', '.join(NAMES)}", "name one")
        first = _first_row(ref, numbered)
        return next((shape for shape in named if shape.fits(first)), named[0])
    return detect(_first_row(ref, numbered)) if numbered else None


def _first_row(ref: DataRef, numbered: Sequence[tuple[int, Row]]) -> Row:
    """The first row under our names, so far as it has them."""
    first = numbered[0][1] if numbered else {}
    try:
        return renamed(first, ref.columns) if ref.columns else first
    except ValueError:
        return first


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
    if not path.exists():
        raise DataError(where, f"{expanded} does not exist", "an existing file or folder", "correct the path")
    return path


def split_of(key: str, where: str = "data", wanted: str | None = None) -> str:
    """train, validation or test (80 / 10 / 10), by a hash of the key alone: equal keys always land on the same side."""
    if wanted is not None and wanted not in SPLITS:
        raise DataError(where, f"unknown split {wanted!r}", f"one of {', '.join(SPLITS)}", "correct the split")
    bucket = zlib.crc32(key.encode()) % 10
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def prompt_text(prompt: str | Sequence[Row]) -> str:
    """What a prompt says: the string itself, or the content of the last user message."""
    if isinstance(prompt, str):
        return prompt
    return next(message["content"] for message in reversed(prompt) if message["role"] == "user")


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """JSONL, one row a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _key(row: Row) -> str:
    """What must not sit on both sides of a split: the prompt, or the whole row where it has none."""
    value = row.get("prompt", row.get("text", row))
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _read_hub(ref: DataRef, where: str, revision: str | None) -> list[Row]:
    import datasets

    try:
        return datasets.load_dataset(ref.hub, revision=revision, split=ref.split or "train").to_list()  # type: ignore[union-attr]
    except (FileNotFoundError, ConnectionError, OSError, ValueError) as error:
        raise DataError(
            where,
            f"hub data set {ref.hub!r}: {str(error).splitlines()[0]}",
            "a reachable data set",
            "check name and network",
        ) from None


def _without(numbered: Sequence[tuple[int, Row]], fields: Sequence[str]) -> list[str]:
    """What is wrong with the rows that do not hold every field as text or messages."""
    bad = []
    for number, row in numbered:
        for field in fields:
            if field not in row:
                bad.append(f"line {number}: no field {field!r} (it has: {', '.join(map(str, row)) or 'nothing'})")
            elif not isinstance(row[field], (str, list)) or not row[field]:
                bad.append(
                    f"line {number}: field {field!r} is {'empty' if not row[field] else type(row[field]).__name__}"
                )
            elif isinstance(row[field], list) and not all(_is_message(message) for message in row[field]):
                bad.append(f"line {number}: field {field!r} holds what is no message with role and content")
    return bad


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)
