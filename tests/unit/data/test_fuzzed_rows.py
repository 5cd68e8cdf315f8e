"""Rows of every format with odd values in them, from the file to the training rows, and through `align data`'s checks, cleaning and
splits: each is used or listed by its line, one message says what is wrong, and what good rows say is not lost."""

import json
import re

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alignment.core.config import DataRef
from alignment.core.errors import DataError
from alignment.data.cleaning import Rules, clean, split
from alignment.data.formats import AS_THEY_ARE, FORMATS, NAMES
from alignment.data.inspection import inspect
from alignment.data.rows import read_rows, write_rows
from alignment.data.stream import LEARNABLE, Reading


def turns(*texts):
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


def spoken(*texts):
    return [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]


# Each text holds a token of its own, made of `t` and a letter, by which it is found again.
GOOD = (
    ("message pairs", lambda t: {"chosen": turns(f"{t}a", f"{t}b"), "rejected": turns(f"{t}a", f"{t}c")}),
    ("message pairs", lambda t: {"prompt": f"{t}a", "chosen": turns("", f"{t}b")[1:], "rejected": turns("", f"{t}c")[1:]}),
    ("preferences", lambda t: {"prompt": f"{t}a", "chosen": f"{t}b", "rejected": f"{t}c"}),
    ("preferences", lambda t: {"prompt": turns(f"{t}a"), "chosen": turns("", f"{t}b")[1:], "rejected": turns("", f"{t}c")[1:]}),
    ("labelled answers", lambda t: {"prompt": f"{t}a", "completion": f"{t}b", "label": True}),
    ("prompt and completion", lambda t: {"prompt": f"why {t}a 你", "completion": f"since {t}b 😀"}),
    ("prompt and completion", lambda t: {"prompt": turns(f"{t}a"), "completion": turns("", f"{t}b")[1:]}),
    ("messages", lambda t: {"messages": turns(f"{t}a", f"{t}b", f"{t}c", f"{t}d")}),
    ("transcripts", lambda t: {side: f"\n\nHuman: {t}a\n\nAssistant: {t}{side[0]}" for side in ("chosen", "rejected")}),
    ("two answers", lambda t: {"prompt": f"{t}a", "response_0": f"{t}b", "response_1": f"{t}c", "better_response_id": 1}),
    ("two answers", lambda t: {"question": f"{t}a", "answer_a": f"{t}b", "answer_b": f"{t}c", "winner": "model_a"}),
    ("two answers", lambda t: {"query": f"{t}a", "response_a": f"{t}b", "response_b": f"{t}c", "winner": "b"}),
    ("two answers", lambda t: {"instruction": f"{t}a", "response_a": f"{t}b", "response_b": f"{t}c", "label": 0}),
    ("sharegpt", lambda t: {"conversations": spoken(f"{t}a", f"{t}b", f"{t}c"), "system": f"{t}s"}),
    ("sharegpt", lambda t: {"conversations": turns(f"{t}a", f"{t}b")}),
    ("seed tasks", lambda t: {"instruction": f"{t}a", "instances": [{"input": f"{t}{n}", "output": f"{t}{n + 3}"} for n in range(3)]}),
    ("alpaca", lambda t: {"instruction": f"{t}a", "input": f"{t}b", "output": f"{t}c"}),
    ("alpaca", lambda t: {"instruction": f"{t}a", "output": f"{t}b", "system": f"{t}c", "history": [[f"{t}d", f"{t}e"]]}),
    ("alpaca template", lambda t: {"instruction": f"{t}a", "input": f"{t}b", "output": f"{t}c"}),
    ("question and answer", lambda t: {"question": f"{t}a", "answer": f"{t}b"}),
    (AS_THEY_ARE, lambda t: {"text": f"{t}a", "anything": {"else": [f"{t}b"]}}),
    ("labelled texts", lambda t: {"text": f"{t}a", "label": 3}),
    ("text", lambda t: {"text": f"{t}a"}),
    ("prompts", lambda t: {"prompt": f"{t}a"}),
)  # fmt: skip
ASKED = {shape.name for shape in FORMATS if shape.asked}
PAIRS = {"message pairs", "preferences", "transcripts", "two answers"}
FIELDS = {
    "labelled answers": [("prompt", "completion", "label")],
    "labelled texts": [("text", "label")],
    "prompts": [("prompt",)],
} | {name: [("prompt", "chosen", "rejected")] for name in PAIRS}
TOKEN = re.compile(r"tok\d\w")
JUNK = st.sampled_from(
    [5, 0, -1, 1.5, True, None, "", " ", "x", [], [1], [[["x"]]], [None], {}, {"a": 1}, {"content": 1}, "9" * 400]
)


def places(value, path=()):
    """The path of every value inside a row."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([path] if path else []), *(place for key, child in children for place in places(child, (*path, key)))]


@st.composite
def odd_lines(draw, row):
    """A row as a line of JSON with something wrong in it, or something more; and whether it has to be listed."""
    row = json.loads(json.dumps(row))
    match draw(
        st.sampled_from(["value", "value", "value", "missing", "extra", "no object", "other", "key twice", "surrogate"])
    ):
        case "no object":
            return json.dumps(draw(JUNK.filter(lambda value: not isinstance(value, dict)))), True
        case "other":
            return json.dumps(draw(st.sampled_from(GOOD))[1]("other")), False
        case "key twice":
            objects = list(re.finditer(r'\{("\w+": )', json.dumps(row)))
            place = draw(st.sampled_from(objects))
            return json.dumps(row)[: place.end()] + json.dumps(draw(JUNK)) + ", " + json.dumps(row)[
                place.start(1) :
            ], True
        case "surrogate":
            half = draw(st.sampled_from(["\\ud800", "\\uDFFF", "\\ude00\\ud83d"]))
            return json.dumps(row).replace("tok", f"{half}tok", 1), True
        case kind:
            *path, last = draw(st.sampled_from(places(row)))
            holder = row
            for key in path:
                holder = holder[key]
            if kind == "missing":
                del holder[last]
            else:
                key = "extra" if kind == "extra" and isinstance(holder, dict) else last
                holder[key] = draw(JUNK)
            return json.dumps(row), False


@st.composite
def files(draw):
    """(format that is asked for, or none; fields that are wanted; lines; numbers of those that are good, of those to be listed)."""
    name, make = draw(st.sampled_from(GOOD))
    lines, good, listed = [], {}, set()
    for number in range(1, draw(st.integers(1, 6)) + 1):
        row = make(f"tok{number}")
        if draw(st.booleans()):
            lines.append(json.dumps(row))
            good[number] = TOKEN.findall(lines[-1])
        else:
            line, bad = draw(odd_lines(row))
            lines.append(line)
            listed |= {number} if bad else set()
    asked = name if name in ASKED or draw(st.booleans()) else None
    return asked, FIELDS.get(name, LEARNABLE), lines, good, listed


def attempted(make):
    """What comes of it, or None where one message says what is wrong."""
    try:
        return make()
    except DataError as error:
        assert error.what and error.expected and error.remedy
        return None


def numbers(bad):
    return {int(re.match(r"(?:line|row) (\d+): .", problem)[1]) for problem in bad}


def test_every_format_is_tried():
    assert {name for name, _ in GOOD} == set(NAMES)


@settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(file=files(), array=st.sampled_from([False, False, True]))
def test_odd_values_are_read_or_listed(tmp_path, file, array):
    asked, fields, lines, good, to_be_listed = file
    path = tmp_path / f"rows.{'json' if array else 'jsonl'}"
    path.write_text(f"[{', '.join(lines)}]" if array else "\n".join(lines))
    ref = DataRef(path=str(path), format=asked)
    read = attempted(lambda: read_rows(ref))
    if read is None:  # a JSON array is read as a whole or not at all
        assert array and to_be_listed
        return
    bad = numbers(read.bad)
    assert to_be_listed <= bad
    assert {number for number, _ in read.rows} | bad == set(range(1, len(lines) + 1))
    assert not {number for number, _ in read.rows} & bad
    for number, tokens in good.items():
        found = str([row for place, row in read.rows if place == number])
        assert set(tokens) <= set(TOKEN.findall(found)) or (number in bad and 1 not in good)
    check_training(ref, fields, read, good)
    check_commands(read, tmp_path)


def check_training(ref, fields, read, good):
    """What `on_error: skip` leaves, and that `stop` stops at the first thing that it would leave out."""
    reading = Reading(ref.model_copy(update={"on_error": "skip"}), None, "data")
    kept = attempted(lambda: list(reading.usable(fields)))
    bad = numbers(reading.bad)
    usable = [row for number, row in read.rows if number not in bad]
    assert (kept or []) == usable
    if 1 in good:  # it tells format and fields
        assert not bad & good.keys()
    assert attempted(lambda: list(Reading(ref, None, "data").usable(fields))) == (None if bad or not usable else usable)


def check_commands(read, folder):
    for limit in (None, 2):
        lengths, findings = inspect(read.rows, read.format, None, limit)
        assert len(lengths) == len(read.rows)
        assert {line for finding in findings for line in finding.lines} <= {number for number, _ in read.rows}
    for rules in (Rules(), Rules(False, False, longest=3, against=["why tok1a 你"], strip=True, redact=True)):
        cleaned = clean(read.rows, rules, lambda text: len(text.split()))
        assert len(cleaned.rows) + len(cleaned.dropped) == len(read.rows)
        parts = split(cleaned.rows, (0.4, 0.3, 0.3))
        assert sorted(map(repr, cleaned.rows)) == sorted(repr(row) for part in parts.values() for row in part)
        write_rows(cleaned.rows, folder / "written.jsonl")
        assert [json.loads(line) for line in (folder / "written.jsonl").read_text().split("\n")[:-1]] == cleaned.rows
