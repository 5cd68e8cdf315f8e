import json

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.core.config import DataRef
from alignment.core.errors import DataError
from alignment.data.rows import load_rows, prompt_text, read_rows, write_rows
from alignment.data.stream import SPLITS, Reading, split_of

ROWS = [{"prompt": f"p{i}", "completion": f"c{i}"} for i in range(40)]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    if suffix == ".jsonl":
        write_rows(ROWS, path)
    elif suffix == ".json":
        path.write_text(json.dumps(ROWS))
    else:
        pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), path)
    assert load_rows(DataRef(path=str(path)), fields=("prompt", "completion")) == ROWS
    assert load_rows(DataRef(path=str(path), rows=3)) == ROWS[:3]


def test_several_files_are_read_in_order_and_a_text_file_is_one_row(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("two")
    assert load_rows(DataRef(path=[str(tmp_path / "b.txt"), str(tmp_path / "a.txt")])) == [
        {"text": "two"},
        {"text": "one"},
    ]


def test_splits_of_a_file_are_disjoint_and_complete(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_rows(ROWS, path)
    parts = [load_rows(DataRef(path=str(path), split=split)) for split in SPLITS]
    assert sorted(row["prompt"] for part in parts for row in part) == sorted(row["prompt"] for row in ROWS)


@given(st.text())
def test_a_key_always_falls_on_the_same_side(key):
    assert split_of(key) == split_of(key)
    assert split_of(key) in SPLITS


def test_about_a_tenth_is_test_and_a_tenth_validation():
    counts = {split: sum(split_of(f"prompt {i}") == split for i in range(10_000)) for split in SPLITS}
    assert 900 < counts["test"] < 1100
    assert 900 < counts["validation"] < 1100


def test_equal_prompts_with_other_answers_stay_together(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_rows([{"prompt": "same", "completion": str(i)} for i in range(20)], path)
    assert len(load_rows(DataRef(path=str(path), split=split_of("same")))) == 20


def test_a_hole_in_the_middle_of_a_big_file_is_found(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row) for row in ROWS]
    for bad in (3, 7, 9, 11, 20, 30, 35):
        lines[bad] = lines[bad][:-2]
    path.write_text("\n".join(lines))
    with pytest.raises(DataError) as caught:
        load_rows(DataRef(path=str(path)), where="stages.sft.data")
    message = str(caught.value)
    assert "7 bad rows" in message
    assert "line 4:" in message
    assert "and 2 more" in message


def test_environment_variables_in_paths(tmp_path, monkeypatch):
    write_rows(ROWS, tmp_path / "rows.jsonl")
    monkeypatch.setenv("MY_DATA", str(tmp_path))
    assert load_rows(DataRef(path="${MY_DATA}/rows.jsonl")) == ROWS


def test_what_a_gold_scorer_reads_of_a_prompt():
    assert prompt_text("Once upon") == "Once upon"
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert prompt_text(chat) == "c"


def test_a_bad_first_row_does_not_spoil_the_others(tmp_path):
    """The format is told by the first row that can be told at all."""
    path = tmp_path / "rows.jsonl"
    write_rows([{"review": f"r{label}", "label": label} for label in (9, 0, 1)], path)
    ref = DataRef(
        path=str(path),
        values={"label": ["bad", "good"]},
        template={"prompt": "{review}", "completion": " {label}"},
        on_error="skip",
    )
    rows = load_rows(ref, fields=("prompt", "completion"))
    assert [row["completion"] for row in rows] == [" bad", " good"]


def test_a_csv_file_and_a_template_can_be_ordered_by_a_column(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("question,answer,hard\nq1,a1,2.5\nq2,a2,none\nq3,a3,1\n")
    ref = DataRef(path=str(path), template={"prompt": "{question}", "completion": " {answer}"})
    reading = Reading(ref, None, "data", "hard")
    assert [row["hard"] for _, row in reading] == [2.5, 1.0]
    assert reading.bad == ["line 3: no number in 'hard'"]


def test_a_json_array_is_read_in_time_that_grows_with_its_size_alone(tmp_path):
    """Half of a surrogate pair is looked for once, not once a row."""
    path = tmp_path / "rows.json"
    rows = [{"prompt": f"p{number}", "completion": "c" * 500} for number in range(20_000)]
    path.write_text(json.dumps(rows))
    assert len(load_rows(DataRef(path=str(path)))) == 20_000  # 11 MB: minutes, if every row read it all


def test_rows_that_say_too_much_are_left_out_before_rows_are_counted(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_rows([{"prompt": "a" * n, "completion": "b"} for n in (9, 1, 8, 2)], path)
    kept = load_rows(DataRef(path=str(path), max_characters=10, rows=2))  # a line end stands between prompt and answer
    assert [len(row["prompt"]) for row in kept] == [1, 8]
    with pytest.raises(DataError, match="holds no rows"):
        load_rows(DataRef(path=str(path), max_characters=3 - 1))


def test_bytes_that_are_no_utf8_far_inside_a_csv_file_are_told_by_their_line(tmp_path):
    (tmp_path / "rows.csv").write_bytes(b"text\n" + b"abcdefg\n" * 4000 + b"caf\xe9\n")
    with pytest.raises(DataError, match=r"not UTF-8 after line \d+"):
        load_rows(DataRef(path=str(tmp_path / "rows.csv")))


def test_a_parquet_file_with_a_column_twice_is_refused(tmp_path):
    twice = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pyarrow.parquet.write_table(twice, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="'text' stands twice"):
        load_rows(DataRef(path=str(tmp_path / "rows.parquet")))


def test_a_row_without_a_column_of_its_format_is_told_in_words(tmp_path):
    write_rows([{"instruction": "x", "output": "y"}, {"instruction": "x"}], tmp_path / "rows.jsonl")
    told = read_rows(DataRef(path=str(tmp_path / "rows.jsonl"))).bad
    assert told == ["line 2: no column 'output' (it has: instruction)"]


def test_length_is_that_of_what_a_row_says(tmp_path):
    """A prompt that is also the first turn of the messages counts once; a row of unknown columns by all its texts."""
    turns = [{"role": "user", "content": "a" * 50}, {"role": "assistant", "content": "b" * 10}]
    path = tmp_path / "rows.jsonl"
    write_rows([{"prompt": "a" * 50, "messages": turns}], path)
    assert len(load_rows(DataRef(path=str(path), max_characters=61))) == 1  # a line end stands between the turns
    write_rows([{"sentence": "a" * size, "number": 3} for size in (500, 5)], path)
    assert [row["sentence"] for row in load_rows(DataRef(path=str(path), max_characters=50))] == ["aaaaa"]


def test_a_conversation_sits_on_one_side_of_a_split_with_all_that_begin_like_it(tmp_path):
    path = tmp_path / "rows.jsonl"
    talks = [
        [{"role": "user", "content": f"question {n % 4}"}, {"role": "assistant", "content": f"answer {n}"}]
        for n in range(80)
    ]
    write_rows([{"messages": talk} for talk in talks], path)
    sides = {}
    for split in ("train", "validation", "test"):
        try:
            for row in load_rows(DataRef(path=str(path), split=split)):
                sides.setdefault(row["messages"][0]["content"], set()).add(split)
        except DataError:
            pass  # four beginnings need not fall on all three
    assert len(sides) == 4 and all(len(found) == 1 for found in sides.values())


def test_a_label_that_a_table_with_gaps_made_a_float_is_a_whole_number(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_rows([{"text": "x", "label": 0.0}, {"text": "y", "label": "pos "}, {"text": "z", "label": 1}], path)
    assert [row["label"] for row in load_rows(DataRef(path=str(path)), fields=("text", "label"))] == [0, "pos", 1]
    write_rows([{"text": "x", "label": 1.0}], path)
    assert load_rows(DataRef(path=str(path), values={"label": ["bad", "good"]}))[0]["label"] == "good"
    path.write_text('{"text": "a", "label": true}\n{"text": "b", "label": false}\n')
    rows = load_rows(DataRef(path=str(path), values={"label": ["bad", "good"]}))
    assert [row["label"] for row in rows] == ["good", "bad"]
    write_rows([{"text": "x", "label": 0.5}], path)
    with pytest.raises(DataError, match="field 'label' is float"):
        load_rows(DataRef(path=str(path)), fields=("text", "label"))


def test_one_of_several_subsets_of_a_hub_data_set(tmp_path, monkeypatch):
    import datasets

    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **options: asked.append((*names, options)) or ROWS)
    assert load_rows(DataRef(hub="openai/gsm8k", subset="main", split="test")) == ROWS
    assert asked == [("openai/gsm8k", "main", {"revision": None, "split": "test"})]
    with pytest.raises(ValueError, match="only data sets on the hub"):
        DataRef(path="rows.jsonl", subset="main")
