"""What a data reference names, one row at a time: a file may be larger than memory. A bad row names its file, line and field."""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alignment.core.artifact import Artifact
from alignment.core.config import DataRef
from alignment.core.errors import DataError
from alignment.data.formats import FORMATS, NAMES, Format, detect, named, renamed, written
from alignment.data.reading import has_lines, raise_bad, read_file, resolve_paths, told
from alignment.data.texts import beginning, wording

Row = dict[str, Any]
Numbered = tuple[int, Row]
LEARNABLE = (("prompt", "completion"), ("messages",), ("text",))  # rows that a language model can be taught
SPLITS = ("train", "validation", "test")
_logger = logging.getLogger(__name__)


class Reading:
    """An iterator over the rows of a reference in the suite's own form, each with its line number.

    where: what error messages call the reference, e.g. `stages.sft.data`. column: a number that all rows keep, whatever their format.
    source: what is read; format, about: what it was found to be; as soon as there is a row. bad: what was wrong with rows so far.
    Raises DataError while it is iterated for what cannot be read as a whole, and at the end if there was no row at all.
    """

    def __init__(self, ref: DataRef, artifact: Artifact | None, where: str, column: str | None = None) -> None:
        self.source, self.format, self.about = "", "", "rows of no known format"
        self.bad: list[str] = []
        self._ref, self._artifact, self._where, self._column = ref, artifact, where, column
        self._file, self._unit = "", "line"  # of several files the one being read; what is counted in it

    def __iter__(self) -> Iterator[Numbered]:
        """The rows of the split, as many as are wanted."""
        ref, found, longer = self._ref, 0, 0
        for number, row in self._converted():
            if ref.max_characters is not None and len(wording(row)) > ref.max_characters:
                longer += 1
            elif ref.split is None or ref.path is None or split_of(beginning(row), self._where, ref.split) == ref.split:
                found += 1
                yield number, row
                if found == ref.rows:
                    break
        if longer:
            _logger.info("%s: %d rows say more than %d characters", self._where, longer, ref.max_characters)
        if not found and (not self.bad or ref.split is not None or ref.max_characters is not None):
            what = f"{self.source} holds no rows"
            raise DataError(self._where, what, "at least one row", "check the file, the split and the filter")

    def usable(self, alternatives: Sequence[Sequence[str]]) -> Iterator[Row]:
        """The rows that hold all fields of one alternative, the first that fits a row, as non-empty text or messages.

        Raises DataError for other rows, when all were read; under `on_error: skip` they are left out, and told.
        """
        fields = alternatives[0] if len(alternatives) == 1 else None
        stops, kept = self._ref.on_error == "stop", 0
        for number, row in self:
            if fields is None:
                fields = next((names for names in alternatives if all(name in row for name in names)), None)
            if fields is None and stops:
                what = f"{self.source}: rows hold {column_names(row)}"
                remedy = "name the columns that hold them with `columns:`, or use other data"
                raise DataError(self._where, what, _either(alternatives), remedy)
            problem = (
                f"no {_either(alternatives)} (it has: {column_names(row)})"
                if fields is None
                else what_is_wrong(row, fields)
            )
            if problem:
                self._tell(number, problem)
            else:
                kept += 1
                yield row
        if stops:
            expected = f"each row to hold {', '.join(fields)}" if fields else "rows that can be read"
            raise_bad(self.bad, self.source, self._where, expected)
        elif self.bad:
            _logger.warning("%s: left out of %s: %s", self._where, self.source, told(self.bad))
        if not kept:
            what = f"{self.source}: no good row; {told(self.bad)}"
            raise DataError(self._where, what, "at least one", "mend them")

    def place(self, number: int) -> int | str:
        """Where the row just read stands."""
        return f"{self._file.removesuffix(', ')}:{number}" if self._file else number

    def _tell(self, number: int, problem: str) -> None:
        self.bad.append(f"{self._file}{self._unit} {number}: {problem}")

    def _converted(self) -> Iterator[Numbered]:
        shape, known = None, False
        for number, row in self._raw():
            try:
                own, order = self._told(row)
            except ValueError as error:
                self._tell(number, str(error))
                continue
            if not known:
                shape, known = self._shape(own), True
            try:
                made = shape.convert(own) if shape is not None else [own]
            except KeyError as error:
                self._tell(number, f"no column {error} (it has: {column_names(own)})")
                continue
            except (ValueError, TypeError, AttributeError) as error:
                self._tell(number, str(error))
                continue
            if self._column is None:
                yield from ((number, each) for each in made)
            elif (place := _number(order)) is not None:
                yield from ((number, each | {self._column: place}) for each in made)
            else:
                self._tell(number, f"no number in {self._column!r}")

    def _told(self, row: Row) -> tuple[Row, Any]:
        """The row under our names, its numbers named, written anew where the reference has a template; and what it holds in `column`.
        Raises ValueError."""
        own = renamed(row, self._ref.columns) if self._ref.columns else row
        place = own.get(self._column or "")
        own = named(own, self._ref.values) if self._ref.values else own
        return (written(own, self._ref.template) if self._ref.template else own), place

    def _shape(self, first: Row) -> Format | None:
        """The format that the reference names, else the one that the first row fits. Raises DataError for a name that there is not."""
        shape, asked = detect(first), self._ref.format
        if asked is not None:
            shapes = [shape for shape in FORMATS if shape.name == asked]
            if not shapes:
                where, expected = f"{self._where}.format", f"one of {', '.join(NAMES)}"
                raise DataError(where, f"no format {asked!r}", expected, "name one")
            shape = next((shape for shape in shapes if shape.fits(first)), shapes[0])
        if shape is not None:
            self.format, self.about = shape.name, shape.about
        return shape

    def _raw(self) -> Iterator[Numbered]:
        """The rows as they are kept."""
        ref, where = self._ref, self._where
        if ref.stage is not None:
            assert self._artifact is not None, f"{where}: the runner did not hand in the data set of stage {ref.stage}"
            yield from self._files([self._artifact.path / f"{ref.split or 'train'}.jsonl"])
        elif ref.lab is not None:
            from alignment.lab import data as lab

            self.source = f"lab:{ref.lab}"
            if not lab.known(ref.lab):
                what = f"the lab has no data set {ref.lab!r}"
                raise DataError(where, what, f"one of {', '.join(lab.NAMES)}", "correct the name")
            yield from enumerate(lab.rows(ref.lab, ref.split or "train"), 1)
        elif ref.hub is not None:
            self.source, self._unit = f"hub:{ref.hub}", "row"
            yield from enumerate(_hub_rows(ref, where, self._artifact.digest if self._artifact else ref.revision), 1)
        else:
            yield from self._files(resolve_paths(ref, where))

    def _files(self, paths: Sequence[Path]) -> Iterator[Numbered]:
        self.source = ", ".join(map(str, paths))
        for path in paths:
            self._file = f"{path.name}, " if len(paths) > 1 else ""
            self._unit = "line" if has_lines(path) else "row"
            yield from read_file(path, self._where, lambda problem: self.bad.append(self._file + problem))


def split_of(key: str, where: str = "data", wanted: str | None = None) -> str:
    """train, validation or test (80 / 10 / 10), by a hash of the key alone: equal keys always land on the same side."""
    if wanted is not None and wanted not in SPLITS:
        raise DataError(where, f"unknown split {wanted!r}", f"one of {', '.join(SPLITS)}", "correct the split")
    bucket = zlib.crc32(key.encode()) % 10
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def column_names(row: Row) -> str:
    """The columns of a row."""
    return ", ".join(map(str, row)) or "nothing"


def _either(alternatives: Sequence[Sequence[str]]) -> str:
    return " or ".join(" + ".join(names) for names in alternatives)


def what_is_wrong(row: Row, fields: Sequence[str]) -> str:
    """What is wrong with a row that does not hold every field as text or messages; empty where nothing is."""
    return "; ".join(filter(None, (_wrong(row, field) for field in fields)))


def _wrong(row: Row, field: str) -> str:
    if field not in row:
        return f"no field {field!r} (it has: {column_names(row)})"
    value = row[field]
    if field == "label" and isinstance(value, int):
        return ""  # True and False, or the number of a class
    if not isinstance(value, str | list) or not value:
        return f"field {field!r} is {'empty' if value in (None, '', []) else type(value).__name__}"
    if isinstance(value, list) and not all(_is_message(message) for message in value):
        return f"field {field!r} holds what is no message with role and content"
    return ""


def _number(value: object) -> float | None:
    """As a file may hold it: a CSV file knows text only."""
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)


def _hub_rows(ref: DataRef, where: str, revision: str | None) -> Iterator[Row]:
    import datasets

    try:
        yield from datasets.load_dataset(ref.hub, ref.subset, revision=revision, split=ref.split or "train")  # type: ignore[misc]
    except (FileNotFoundError, ConnectionError, OSError, ValueError) as error:
        raise DataError(
            where,
            f"hub data set {ref.hub!r}: {str(error).splitlines()[0]}",
            "a reachable data set, a split and a subset that it has",
            "check name, split, subset and network",
        ) from None
