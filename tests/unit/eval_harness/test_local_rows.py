"""Rows of local files as documents: columns mapped, and every row that could be read in two ways refused with its file and line."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from alignment.core.config import DataRef
from alignment.core.errors import DataError, RecipeError
from eval.config import Task
from eval.local_rows import chosen, normalise, read_documents
from eval.task_config import ChoicesTask, ExactTask, LabelsTask, LastWordTask, PairsTask, Variant, split_variant


def write(tmp_path, rows, name="rows.jsonl"):
    path = tmp_path / name
    path.write_text("".join((json.dumps(row) if row is not None else "") + "\n" for row in rows))
    return DataRef(path=str(path))


def documents(kind, tmp_path, rows, **options):
    metrics = {ChoicesTask: "choices", ExactTask: "exact_match", PairsTask: "pairs", LastWordTask: "last_word"}
    data = write(tmp_path, rows)
    task = kind(metric=metrics[kind], data=data, **options)
    return read_documents(task, data, None, "evaluation.tasks.t.data").rows


def test_columns_are_mapped(tmp_path):
    rows = [{"query": "Sky?", "options": ["red", "blue"], "gold": 1, "topic": 7}]
    found = documents(
        ChoicesTask, tmp_path, rows, prompt="Q: {query}\nA:", choices="options", answer="gold", cluster="topic"
    )
    assert found == [{"prompt": "Q: Sky?\nA:", "choices": ["red", "blue"], "gold": 1, "cluster": "7"}]
    rows = [{"goal": "Open it", "sol1": "push", "sol2": "pull", "label": 0}]
    found = documents(ChoicesTask, tmp_path, rows, prompt="{goal}", choices=["sol1", "sol2"], answer="label")
    assert found == [{"prompt": "Open it", "choices": ["push", "pull"], "gold": 0}]
    assert documents(PairsTask, tmp_path, [{"a": "He is.", "b": "He are."}], good="a", bad="b") == [
        {"good": "He is.", "bad": "He are."}
    ]
    assert documents(LastWordTask, tmp_path, [{"text": "he went  home "}], text="text") == [
        {"prompt": "he went ", "answer": "home"}
    ]
    assert documents(LastWordTask, tmp_path, [{"context": "he went", "word": "home"}], target="word") == [
        {"prompt": "he went", "answer": "home"}
    ]
    assert documents(ExactTask, tmp_path, [{"prompt": "2+2=", "target": [4, "four"]}]) == [
        {"prompt": "2+2=", "answer": "4", "targets": ["4", "four"]}
    ]


@pytest.mark.parametrize(
    ("answer", "means", "place"),
    [
        (2, None, 2), ("blue", None, 1), ("C", None, 2), ("2", "index", 2), ("2", "number", 1), (3, "number", 2),
        ("A", "letter", 0),
    ],
)  # fmt: skip
def test_an_answer_is_a_place_a_letter_or_the_text(tmp_path, answer, means, place):
    rows = [{"question": "q", "choices": ["red", "blue", "green"], "answer": answer}]
    assert documents(ChoicesTask, tmp_path, rows, answer_is=means)[0]["gold"] == place


def test_an_answer_with_two_readings_is_refused_with_its_line(tmp_path):
    good = {"question": "q", "choices": ["red", "blue"], "answer": "red"}
    digit = {"question": "q", "choices": ["red", "blue"], "answer": "1"}
    letter = {"question": "q", "choices": ["B", "A"], "answer": "A"}
    with pytest.raises(DataError) as error:
        documents(ChoicesTask, tmp_path, [good, None, digit, good, letter])
    message = str(error.value)
    assert message.startswith("evaluation.tasks.t.data: 2 of 4 rows do not fit:")
    assert (
        "rows.jsonl, line 3: 'answer' is '1': index ('blue') or number ('red')? say which with `answer_is`" in message
    )
    assert "rows.jsonl, line 5: 'answer' is 'A': letter ('B') or text ('A')?" in message


BAD = {
    "out of range": (ChoicesTask, {"question": "q", "choices": ["a", "b"], "answer": 2}, "names none of the 2 choices"),
    "true is no place": (ChoicesTask, {"question": "q", "choices": ["a", "b"], "answer": True}, "names none of the 2"),
    "one choice": (ChoicesTask, {"question": "q", "choices": ["a"], "answer": 0}, "no list of two or more texts"),
    "right twice": (ChoicesTask, {"question": "q", "choices": ["a", "b", "a"], "answer": 0}, "'a' stands there twice"),
    "no column": (ChoicesTask, {"quest": "q", "choices": ["a", "b"], "answer": 0}, "no column 'question' (it has: quest, choices"),
    "empty prompt": (ExactTask, {"prompt": " ", "target": "a"}, "column 'prompt' holds neither text nor number"),
    "empty target": (ExactTask, {"prompt": "p", "target": []}, "column 'target' is empty"),
    "same texts": (PairsTask, {"good": "a", "bad": "a"}, "both texts are the same"),
    "no text": (PairsTask, {"good": "a", "bad": 3}, "column 'bad' holds no text"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_rows_that_do_not_fit_are_refused(tmp_path, name):
    kind, row, message = BAD[name]
    with pytest.raises(DataError, match="1 of 1 rows do not fit") as error:
        documents(kind, tmp_path, [row])
    assert re.search(rf"rows\.jsonl, line 1: .*{re.escape(message)}", str(error.value))


def test_rows_of_a_parquet_file_are_counted(tmp_path):
    pq.write_table(pa.table({"good": ["a", "b"], "bad": ["x", "b"]}), tmp_path / "rows.parquet")
    task = PairsTask(metric="pairs", data=DataRef(path=str(tmp_path / "rows.parquet")))
    with pytest.raises(DataError, match=r"rows\.parquet, row 2: both texts are the same"):
        read_documents(task, task.data, None, "t")


def test_a_target_that_the_extraction_does_not_find_is_refused(tmp_path):
    rows = [{"prompt": "p", "target": "so #### 18"}, {"prompt": "p", "target": "eighteen"}]
    with pytest.raises(DataError, match=r"line 2: nothing is left to compare of the target 'eighteen'"):
        documents(ExactTask, tmp_path, rows, extract=r"#### (-?\d+)")


def test_rows_that_do_not_fit_may_be_left_out(tmp_path):
    rows = [{"good": "a", "bad": "b"}, {"good": "a", "bad": "a"}]
    task = PairsTask(metric="pairs", data=write(tmp_path, rows), on_error="skip")
    assert read_documents(task, task.data, None, "t") == ([{"good": "a", "bad": "b"}], 1)
    task = task.model_copy(update={"data": write(tmp_path, rows[1:])})
    with pytest.raises(DataError, match="1 of 1 rows do not fit"):
        read_documents(task, task.data, None, "t")


def exact(**options):
    return ExactTask(metric="exact_match", data=DataRef(path="x"), **options)


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        (" Paris\n", {}, "Paris"),
        ("New \n York", {}, "New York"),
        ("PARIS", {"ignore_case": True}, "paris"),
        ("It's Paris!", {"ignore_punctuation": True}, "Its Paris"),
        ("3 or 4, so 7.", {"extract": r"\d+"}, "7"),
        ("a #### 18 b", {"extract": r"#### (\d+)"}, "18"),
        ("no number", {"extract": r"\d+"}, None),
    ],
)
def test_what_is_compared_of_an_answer(text, options, expected):
    assert normalise(text, exact(**options)) == expected


@given(st.text())
def test_normalising_twice_changes_nothing_more(text):
    task = exact(ignore_case=True, ignore_punctuation=True)
    once = normalise(text, task)
    assert once is not None
    assert normalise(once, task) == once


def test_limits_choose_the_questions_and_leave_the_examples():
    docs = [{"n": n, "cluster": "ab"[n % 2]} for n in range(6)]
    common = {"metric": "pairs", "data": DataRef(path="x"), "cluster": "c"}
    asked, rest = chosen(PairsTask(**common, per_cluster=2), docs)
    assert [doc["n"] for doc in asked] == [0, 1, 2, 3]
    assert [doc["n"] for doc in rest] == [4, 5]
    asked, rest = chosen(PairsTask(**common, per_cluster=2, limit=3), docs)
    assert [doc["n"] for doc in asked] == [0, 1, 2]
    assert [doc["n"] for doc in rest] == [3, 4, 5]


def test_the_metric_of_a_block_says_which_keys_it_takes():
    block = {"metric": "choices", "data": {"path": "x"}, "limit": 3}
    assert isinstance(TypeAdapter(Task).validate_python(block), ChoicesTask)
    for wrong in ({"good": "a"}, {"answer_is": "word"}, {"limit": 0}, {"per_cluster": 3}):
        with pytest.raises(ValidationError):
            TypeAdapter(Task).validate_python(block | wrong)
    with pytest.raises(ValidationError, match="regular expression"):
        exact(extract="(")


def test_variants_are_read_off_a_task_s_name():
    assert split_variant("lab_facts") == ("lab_facts", Variant())
    assert split_variant("lab_facts@chat") == ("lab_facts", Variant("chat"))
    assert split_variant("lab_facts@3shot@plain") == ("lab_facts", Variant("plain", 3))
    assert split_variant("/data/a@b/task.yaml@0shot") == ("/data/a@b/task.yaml", Variant(None, 0))
    assert split_variant("lab_facts@chatty") == ("lab_facts@chatty", Variant())
    for twice in ("x@chat@plain", "x@1shot@2shot"):
        with pytest.raises(RecipeError, match="asks for two"):
            split_variant(twice)


@pytest.mark.parametrize(("labels", "gold"), [(["no", "yes"], [1, 0]), (["True", "False"], [0, 1])])
def test_true_and_false_are_labels(tmp_path, labels, gold):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "label": true}\n{"text": "b", "label": false}\n')
    task = LabelsTask(metric="labels", data=DataRef(path=str(path)), prompt="{text}", labels=labels)
    assert [row["gold"] for row in read_documents(task, task.data, None, "task").rows] == gold
