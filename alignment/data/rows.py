"""Reading rows: from files, a stage's data set, the hub or the lab. No torch; a bad row names its file, line and field."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alignment.core.artifact import Artifact
from alignment.core.config import DataRef
from alignment.core.errors import DataError

Row = dict[str, Any]
SPLITS = ("train", "validation", "test")
_SUFFIXES = (".jsonl", ".json", ".parquet", ".txt")
_SHOWN = 5


def load_rows(
    ref: DataRef, artifact: Artifact | None = None, fields: Sequence[str] = (), where: str = "data"
) -> list[Row]:
    """All rows that `ref` names, each checked to hold every one of `fields` as non-empty text or messages.

    artifact: the data set when `ref.stage` is set; for a hub reference its digest is the resolved commit.
    where: what error messages call this reference, e.g. `stages.sft.data`.
    Raises DataError for a missing, empty or malformed source.
    """
    if ref.stage is not None:
        assert artifact is not None, f"{where}: the runner did not hand in the data set of stage {ref.stage}"
        path = artifact.path / f"{ref.split or 'train'}.jsonl"
        numbered = list(_read_file(path, where))
        source = str(path)
    elif ref.lab is not None:
        from alignment.lab import data as lab

        if not lab.known(ref.lab):
            raise DataError(
                where, f"the lab has no data set {ref.lab!r}", f"one of {', '.join(lab.NAMES)}", "correct the name"
            )
        numbered = list(enumerate(lab.rows(ref.lab, ref.split or "train"), 1))
        source = f"lab:{ref.lab}"
    elif ref.hub is not None:
        numbered = list(enumerate(_read_hub(ref, where, artifact.digest if artifact else ref.revision), 1))
        source = f"hub:{ref.hub}"
    else:
        numbered = [pair for path in resolve_paths(ref, where) for pair in _read_file(path, where)]
        source = str(ref.path)
        if ref.split is not None:
            numbered = [(line, row) for line, row in numbered if split_of(_key(row), where, ref.split) == ref.split]
    if not numbered:
        raise DataError(
            where, f"{source} holds no rows", "at least one row", "check the file, the split and the filter"
        )
    numbered = numbered[: ref.rows]
    _require_fields(numbered, fields, source, where)
    return [row for _, row in numbered]


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


def _read_file(path: Path, where: str) -> Iterator[tuple[int, Row]]:
    if path.suffix not in _SUFFIXES:
        raise DataError(
            where,
            f"{path}: unknown kind of file {path.suffix!r}",
            f"one of {', '.join(_SUFFIXES)}",
            "convert or rename it",
        )
    if not path.exists():
        raise DataError(where, f"{path} does not exist", "an existing file", "correct the path or the split")
    if path.suffix == ".parquet":
        import pyarrow.parquet

        try:
            yield from enumerate(pyarrow.parquet.read_table(path).to_pylist(), 1)
        except pyarrow.ArrowException as error:
            raise DataError(where, f"{path}: {error}", "a whole Parquet file", "write it again") from None
        return
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(where, f"{path}: not UTF-8 at byte {error.start}", "UTF-8 text", "convert the file") from None
    if path.suffix == ".txt":
        yield 1, {"text": text}
    elif path.suffix == ".json":
        yield from enumerate(_parse_json_array(text, path, where), 1)
    else:
        yield from _parse_jsonl(text, path, where)


def _parse_jsonl(text: str, path: Path, where: str) -> list[tuple[int, Row]]:
    rows, bad = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            bad.append(f"line {number}: {error.msg} at column {error.colno}")
            continue
        if isinstance(row, dict):
            rows.append((number, row))
        else:
            bad.append(f"line {number}: a {type(row).__name__}, not an object")
    _raise_bad(bad, path, where, "one JSON object a line")
    return rows


def _parse_json_array(text: str, path: Path, where: str) -> list[Row]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            where, f"{path}, line {error.lineno}: {error.msg}", "a JSON array of objects", "mend the file"
        ) from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(
            where, f"{path} is not an array of objects", "a JSON array of objects", "use .jsonl for one object a line"
        )
    return rows


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


def _require_fields(numbered: Sequence[tuple[int, Row]], fields: Sequence[str], source: str, where: str) -> None:
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
    _raise_bad(bad, source, where, f"each row to hold {', '.join(fields)}")


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)


def _raise_bad(bad: Sequence[str], source: object, where: str, expected: str) -> None:
    if bad:
        more = f"\n    ... and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        listed = "".join(f"\n    {problem}" for problem in bad[:_SHOWN])
        raise DataError(
            where, f"{source}: {len(bad)} bad row{'s' * (len(bad) > 1)}:{listed}{more}", expected, "mend these rows"
        )
