"""Damaged data files: whatever was done to one, each of its rows is read or listed, or one message says what is wrong with it."""

import csv
import gzip
import io
import json
import re

import pyarrow as pa
import pyarrow.parquet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alignment.core.config import DataRef
from alignment.core.errors import DataError
from alignment.data.formats import AS_THEY_ARE
from alignment.data.rows import read_rows

# Each row, and so each line, holds a token of its own, by which it is found again.
SHAPES = (
    lambda token: {"prompt": f"why {token}", "completion": f"since {token}"},
    lambda token: {"instruction": token, "input": "", "output": "yes"},
    lambda token: {"question": token, "answer": "no, “never”"},
    lambda token: {"text": f"{token} é 你好"},
    lambda token: {"prompt": token, "chosen": "a", "rejected": "b"},
)
TOKEN = re.compile(r"tok\d\d")


def rows(shape):
    return [SHAPES[shape](f"tok{number:02}") for number in range(6)]


def jsonl(made):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made).encode()


def table(made, delimiter=","):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, made[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(made)
    return text.getvalue().encode()


def parquet(made):
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(made), sink)
    return sink.getvalue()


WRITERS = {
    ".jsonl": jsonl,
    ".json": lambda made: json.dumps(made).encode(),
    ".csv": table,
    ".tsv": lambda made: table(made, "\t"),
    ".txt": lambda made: "\n\n".join(str(value) for row in made for value in row.values()).encode(),
    ".parquet": parquet,
}
BITS = st.sampled_from(
    [b'"', b"'", b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r", b"\r\n", b"\n\n", b"\t", b"\\", b"\\u", b"\\ud800", b"\x00"]
    + [b"\xff", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"null", b"true", b"NaN", b"Infinity", b"-", b"1e999", b"9" * 5000, b"[" * 3000]
    + [b'"prompt":', b'"prompt": 1,', b'"text": "x",', b"prompt,", b'""', b"PAR1", b"\x1f\x8b", "\u202e\u0301".encode(), b" "]
) | st.binary(max_size=6)  # fmt: skip


@st.composite
def damaged(draw, data):
    """Bytes cut out, put in, overwritten, doubled or moved, up to three times."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 40)))
        match draw(st.sampled_from(["cut", "put", "over", "double", "move", "end"])):
            case "cut":
                data = data[:start] + data[end:]
            case "put":
                data = data[:start] + draw(BITS) + data[start:]
            case "over":
                data = data[:start] + draw(BITS) + data[end:]
            case "double":
                data = data[:end] + data[start:]
            case "move":
                data = data[:start] + data[end:] + data[start:end]
            case "end":
                data = data[:start]
    return data


@st.composite
def files(draw):
    """(suffix, bytes): damaged, or damaged before or after they were compressed."""
    suffix = draw(st.sampled_from([*WRITERS, ".jsonl"]))
    data = WRITERS[suffix](rows(draw(st.integers(0, len(SHAPES) - 1))))
    match draw(st.sampled_from(["plain", "plain", "inside", "outside"])):
        case "plain":
            return suffix, draw(damaged(data))
        case "inside":
            return f"{suffix}.gz", gzip.compress(draw(damaged(data)))
        case _:
            return f"{suffix}.gz", draw(damaged(gzip.compress(data)))


def check(folder, suffix, data):
    path = folder / f"rows{suffix}"
    path.write_bytes(data)
    raw, read = (reading(path, format) for format in (AS_THEY_ARE, None))
    path.unlink()
    if raw is None or read is None:
        assert (raw is None and read is None) or not raw.rows
        return
    assert places(raw) == places(read)  # what is no row of a known format is listed
    text = gzip.decompress(data) if suffix.endswith(".gz") else data
    if ".parquet" in suffix:  # it has no lines that could be told apart
        assert [row for _, row in raw.rows] == pyarrow.parquet.read_table(io.BytesIO(text)).to_pylist()
        return
    if ".txt" in suffix:  # one text, to the last blank
        assert [row for _, row in raw.rows] == [row for _, row in read.rows] == [{"text": text.decode("utf-8-sig")}]
        return
    if ".jsonl" in suffix:  # a line is a row, or is listed
        assert places(raw) == {number for number, line in enumerate(text.split(b"\n"), 1) if line.strip()}
    kept = TOKEN.findall(str(raw.rows))
    lost = set(tokens(text, suffix, listed(raw.bad))) - set(kept)
    assert not lost, (lost, raw)


def reading(path, format):
    try:
        return read_rows(DataRef(path=str(path), format=format))
    except DataError as error:
        assert str(error).count("\n") <= 2 and error.what and error.expected and error.remedy
        return None


def places(read):
    return {number for number, _ in read.rows} | listed(read.bad)


def tokens(text, suffix, told):
    """Those that stand in the file, but for lines that were listed."""
    if suffix.startswith(".jsonl"):
        lines = text.split(b"\n")
    elif suffix.startswith((".csv", ".tsv")):
        lines = re.split(rb"\r\n|\r|\n", text)
        told |= {1}  # the names of the columns
    else:
        return TOKEN.findall(text.decode("utf-8-sig")) if not told else []
    return [
        token
        for number, line in enumerate(lines, 1)
        if number not in told
        for token in TOKEN.findall(line.decode("latin-1"))
    ]


def listed(bad):
    """Numbers of the lines or rows that messages name."""
    told = set()
    for problem in bad:
        first, last = re.match(r"(?:line|row)s? (\d+)(?: to (\d+))?: .", problem).groups()
        told |= set(range(int(first), int(last or first) + 1))
    return told


@settings(max_examples=2000, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(file=files())
def test_2000_damaged_files_lose_no_row_unsaid(tmp_path, file):
    check(tmp_path, *file)
