"""Each format as people keep it, by hand; what cannot be read is named; nothing is lost unsaid."""

import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.core.config import DataRef
from alignment.core.errors import DataError
from alignment.data.formats import NAMES, detect
from alignment.data.rows import load_rows, read_rows, write_rows

USER, BOT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
ASSETS = os.environ.get("ALIGN_ASSETS")


def converted(row, **reading):
    shape = detect(row)
    return shape.name, shape.convert(row)


@pytest.mark.parametrize(
    ("row", "name", "made"),
    [
        (
            {"instruction": "Add", "input": "1 2", "output": "3"},
            "alpaca",
            {
                "prompt": [{"role": "user", "content": "Add\n\n1 2"}],
                "completion": [{"role": "assistant", "content": "3"}],
            },
        ),
        (
            {"instruction": "Go on", "output": "c", "system": "Be brief", "history": [["a", "b"]]},
            "alpaca",
            {
                "prompt": [
                    {"role": "system", "content": "Be brief"},
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "b"},
                    {"role": "user", "content": "Go on"},
                ],
                "completion": [{"role": "assistant", "content": "c"}],
            },
        ),
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
            "sharegpt",
            {"messages": [USER, BOT]},
        ),
        (
            {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: Go: away"},
            "transcripts",
            {"prompt": [USER], "chosen": "Hello", "rejected": "Go: away"},
        ),
        (
            {"prompt": "Hi", "chosen": [USER, BOT], "rejected": [USER, BOT | {"content": "No"}]},
            "message pairs",
            {"prompt": [USER], "chosen": "Hello", "rejected": "No"},
        ),
        (
            {"prompt": "Hi", "response_0": "No", "response_1": "Hello", "better_response_id": 1},
            "two answers",
            {"prompt": [USER], "chosen": "Hello", "rejected": "No"},
        ),
        (
            {"question": "Hi", "answer": "Hello"},
            "question and answer",
            {"prompt": [USER], "completion": [BOT]},
        ),
        ({"prompt": "a", "completion": "b", "label": False}, "labelled answers", None),
        ({"prompt": [USER], "chosen": [BOT], "rejected": [BOT]}, "preferences", None),
        ({"messages": [USER, BOT]}, "messages", None),
        ({"text": "a"}, "text", None),
    ],
)
def test_a_format_is_told_by_its_columns_and_becomes_own_rows(row, name, made):
    assert converted(row) == (name, [made or row])


def test_one_instruction_with_many_instances_is_many_rows():
    row = {"instruction": "Add", "instances": [{"input": "", "output": "1"}, {"input": "2", "output": "3"}]}
    name, rows = converted(row)
    assert name == "seed tasks"
    assert [made["prompt"][0]["content"] for made in rows] == ["Add", "Add\n\n2"]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"instruction": "", "output": "3"}, "instruction is empty"),
        ({"instruction": "a", "output": None}, "output is empty"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, "a turn by 'robot'"),
        ({"conversations": [{"from": "gpt", "value": "x"}]}, "the assistant speaks first"),
        (
            {"conversations": [{"from": "human", "value": "x"}, {"from": "human", "value": "y"}]},
            "two turns of the same",
        ),
        ({"conversations": []}, "no list of turns"),
        ({"chosen": "Hello", "rejected": "No"}, "does not begin with a turn"),
        (
            {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: b"},
            "differ before their last turn",
        ),
        ({"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": "tie"}, "says of neither"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_with_its_line(row, problem, tmp_path):
    write_rows([row], tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match=f"(?s)1 bad row.*line 1: .*{problem}"):
        load_rows(DataRef(path=str(tmp_path / "rows.jsonl")))


def test_bad_rows_can_be_left_out_and_are_told(tmp_path, caplog):
    good = {"instruction": "a", "output": "b"}
    lines = [json.dumps(good), "{broken", json.dumps({"instruction": "", "output": "x"}), "[1]", json.dumps(good)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    ref = DataRef(path=str(tmp_path / "rows.jsonl"), on_error="skip")
    assert len(load_rows(ref, fields=("prompt", "completion"))) == 2
    assert "3 bad rows" in caplog.text and "line 2" in caplog.text and "line 4: a list" in caplog.text


def test_columns_are_mapped_and_a_format_can_be_asked_for(tmp_path):
    write_rows([{"q": "Hi", "a": "Hello", "id": 3}], tmp_path / "own.jsonl")
    ref = DataRef(path=str(tmp_path / "own.jsonl"), columns={"prompt": "q", "completion": "a"})
    assert load_rows(ref, fields=("prompt", "completion")) == [{"prompt": "Hi", "completion": "Hello", "id": 3}]
    with pytest.raises(DataError, match="no column 'z'"):
        load_rows(DataRef(path=str(tmp_path / "own.jsonl"), columns={"prompt": "z"}))
    write_rows([{"instruction": "Say hi", "input": "", "output": "hi"}], tmp_path / "alpaca.jsonl")
    ref = DataRef(path=str(tmp_path / "alpaca.jsonl"), format="alpaca template")
    assert load_rows(ref)[0]["prompt"].endswith("### Instruction:\nSay hi\n\n### Response:\n")
    with pytest.raises(DataError, match="no format 'alpacca'"):
        load_rows(DataRef(path=str(tmp_path / "alpaca.jsonl"), format="alpacca"))


def test_csv_with_quoted_lines_and_gzip_are_read(tmp_path):
    (tmp_path / "a.csv").write_text('prompt,completion\n"one\ntwo",x\nthree,"y, z"\n')
    rows = load_rows(DataRef(path=str(tmp_path / "a.csv")), fields=("prompt", "completion"))
    assert rows == [{"prompt": "one\ntwo", "completion": "x"}, {"prompt": "three", "completion": "y, z"}]
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n{"text": "b"}\n'))
    both = DataRef(path=[str(tmp_path / "b.jsonl.gz"), str(tmp_path / "b.jsonl.gz")])
    assert [row["text"] for row in load_rows(both)] == ["a", "b", "a", "b"]
    (tmp_path / "c.csv").write_text("prompt,completion\na,b,c\n")
    with pytest.raises(DataError, match="line 2: 3 cells under 2 columns"):
        load_rows(DataRef(path=str(tmp_path / "c.csv")))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-20])
    with pytest.raises(DataError, match="a whole gzip file"):
        load_rows(DataRef(path=str(tmp_path / "cut.jsonl.gz")))


def test_a_prompt_sits_on_one_side_of_a_split_in_any_format(tmp_path):
    rows = [{"instruction": f"task {n % 30}", "output": str(n)} for n in range(300)]
    write_rows(rows, tmp_path / "rows.jsonl")
    sides = {
        name: {row["prompt"][0]["content"] for row in load_rows(DataRef(path=str(tmp_path / "rows.jsonl"), split=name))}
        for name in ("train", "validation", "test")
    }
    assert sum(map(len, sides.values())) == 30


@pytest.mark.skipif(ASSETS is None, reason="ALIGN_ASSETS is not set: real files are tried only where they are")
@pytest.mark.parametrize(
    ("file", "name", "good_lines", "bad_lines"),
    [
        ("instructions/alpaca_5000.jsonl", "alpaca", 4998, 2),
        ("instructions/self_instruct_seed_tasks.jsonl", "seed tasks", 175, 0),
        ("preferences/hh_harmless-base_test.jsonl", "transcripts", 2303, 9),
        ("preferences/hh_helpful-base_test.jsonl", "transcripts", 2338, 16),
    ],
)
def test_real_files_are_read_without_a_map(file, name, good_lines, bad_lines):
    read = read_rows(DataRef(path=str(Path(ASSETS or "") / "data" / file)))
    assert read.format == name
    assert (len({number for number, _ in read.rows}), len(read.bad)) == (good_lines, bad_lines)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES_OF_COLUMNS = """prompt completion chosen rejected messages text conversations instruction input output history system
label instances response_0 response_1 better_response_id question answer"""
COLUMNS = st.sampled_from(NAMES_OF_COLUMNS.split())
TURNS = st.lists(
    st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt", "x"]), "value": st.text(max_size=5)})
    | st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text(max_size=5)}),
    max_size=4,
)
TALK = st.lists(st.sampled_from(["\n\nHuman: a", "\n\nAssistant: b", "c"]), max_size=4).map("".join)


@settings(max_examples=2000, deadline=None)
@given(st.lists(st.dictionaries(COLUMNS, VALUES | TURNS | TALK, max_size=5), min_size=1, max_size=4))
def test_whatever_a_row_holds_it_is_read_or_listed_never_lost(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("fuzz") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        read = read_rows(DataRef(path=str(path)))
    except DataError:
        return
    assert len({number for number, _ in read.rows}) + len(read.bad) == len(rows)


@settings(max_examples=1000, deadline=None)
@given(
    st.binary(max_size=60) | st.text(max_size=60).map(str.encode),
    st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet", ".jsonl.gz"]),
)
def test_whatever_a_file_holds_there_is_a_message_and_no_traceback(tmp_path_factory, data, suffix):
    path = tmp_path_factory.mktemp("fuzz") / f"rows{suffix}"
    path.write_bytes(data)
    try:
        load_rows(DataRef(path=str(path)), fields=("prompt",))
    except DataError as error:
        assert str(error)


def test_every_format_has_a_name_of_its_own_words():
    assert {"alpaca", "sharegpt", "transcripts", "two answers"} <= set(NAMES)


def test_labelled_rows_become_instructions_by_a_template(tmp_path):
    rows = [{"sentence": "fine film", "label": 1}, {"sentence": "no {plot}", "label": "0"}]
    write_rows(rows, tmp_path / "rows.jsonl")
    named = {"path": str(tmp_path / "rows.jsonl"), "values": {"label": ["bad", "good"]}}
    template = {"prompt": "Review: {sentence}\nSentiment:", "completion": " {label}"}
    assert load_rows(DataRef(**named, template=template)) == [
        {"prompt": "Review: fine film\nSentiment:", "completion": " good"},
        {"prompt": "Review: no {plot}\nSentiment:", "completion": " bad"},
    ]
    assert load_rows(DataRef(**named, columns={"text": "sentence"}))[0] == {"text": "fine film", "label": "good"}
    with pytest.raises(DataError, match="line 1: no text in column 'review'"):
        load_rows(DataRef(**named, template={"text": "{review}"}))
    write_rows([{"sentence": "a", "label": 2}], tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="line 1: label is 2, not a number from 0 to 1"):
        load_rows(DataRef(**named))


def test_a_label_may_be_a_number_or_a_truth_value(tmp_path):
    rows = [{"text": "a", "label": label} for label in (False, 0, "no")]
    write_rows(rows, tmp_path / "rows.jsonl")
    assert load_rows(DataRef(path=str(tmp_path / "rows.jsonl")), fields=("text", "label")) == rows
