"""What `align data` finds, drops and splits: by hand, and through the command."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from alignment.core.errors import RecipeError
from alignment.data.cleaning import Remark, Rules, clean, split
from alignment.data.inspection import inspect, overlap
from alignment.data.rows import write_rows
from recipes.data_cli import app


def numbered(*rows):
    return list(enumerate(rows, 1))


def words(text):
    return len(text.split())


def found(rows, shape="preferences", limit=None):
    return {one.kind: one for one in inspect(numbered(*rows), shape, None, limit)[1]}


def test_duplicates_equal_answers_and_long_rows_are_found_with_their_lines():
    pair = {"prompt": "a b", "chosen": "c", "rejected": "d"}
    rows = [
        pair,
        pair,
        {"prompt": "a b", "chosen": "e", "rejected": "e"},
        {"prompt": "x " * 9, "chosen": "c", "rejected": "d"},
    ]
    findings = found(rows, limit=8)
    assert findings["duplicates"].lines == (2,)
    assert findings["prompts that come again"].lines == (3,)
    assert findings["chosen equals rejected"].lines == (3,) and findings["chosen equals rejected"].severity == "error"
    assert findings["over-long rows"].lines == (4,)
    assert "1,000 is a sensible least" in findings["few rows"].advice


def test_secrets_and_personal_data_are_hinted_at_but_never_repeated():
    key = "AKIA" + "A1B2" * 4
    rows = [
        {"text": f"the key is {key}"},
        {"text": "write to jane.doe@example.org or +49 30 1234567"},
        {"text": "3 + 4"},
    ]
    findings = found(rows, "text")
    assert findings["hints of secrets"].lines == (1,) and findings["hints of personal data"].lines == (2,)
    assert key not in str(findings) and "jane" not in str(findings)


def test_wrongly_decoded_text_is_found_and_plain_accents_are_not():
    rows = [
        {"text": "caf\u00c3\u00a9"},
        {"text": "caf\u00e9 \u201cquoted\u201d"},
        {"text": "a\x00b"},
        {"text": "\ufffd"},
    ]
    assert found(rows, "text")["encoding trouble"].lines == (1, 3, 4)


def test_near_duplicates_are_found_and_different_rows_are_not():
    text = " ".join(f"word{n}" for n in range(60))
    rows = [{"text": text}, {"text": text.replace("word30 ", "")}, {"text": " ".join(f"other{n}" for n in range(60))}]
    near = found(rows, "text")["near duplicates"]
    assert near.lines == (2,) and near.examples == ("line 2 is much like line 1",)


def test_overlap_is_a_run_of_words_whatever_their_case_and_marks():
    rows = numbered({"text": "One two three, four FIVE six."}, {"text": "one two three"}, {"text": "nothing of it"})
    assert overlap(rows, ["zero one two three four five"], size=5).lines == (1,)
    assert overlap(rows, ["One, two; three"], size=5).lines == (2,)  # shorter than a run: as a whole
    assert overlap(rows, ["six five four three two one"], size=5) is None


def test_every_dropped_row_has_its_reason_and_the_others_stay_in_order():
    rows = numbered(
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "d", "chosen": "e", "rejected": "e"},
        {"prompt": "f " * 9, "chosen": "g", "rejected": "h"},
        {"prompt": "secret question", "chosen": "i", "rejected": "j"},
        {"prompt": "k", "chosen": "l", "rejected": "m"},
    )
    cleaned = clean(rows, Rules(longest=5, against=["secret question i j"]), words)
    assert [row["prompt"] for row in cleaned.rows] == ["a", "k"] and not cleaned.repaired
    assert cleaned.dropped == [
        Remark(2, "the same as line 1"), Remark(3, "chosen equals rejected"), Remark(4, "11 long, more than 5"),
        Remark(5, "overlaps with what it must not"),
    ]  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 20), st.integers()), max_size=60))
def test_a_prompt_sits_on_one_side_whatever_stands_around_it(pairs):
    rows = [{"prompt": f"p{prompt}", "completion": str(answer)} for prompt, answer in pairs]
    parts = split(rows, (0.5, 0.25, 0.25))
    assert sorted(map(str, rows)) == sorted(str(row) for part in parts.values() for row in part)
    sides = {}
    for name, part in parts.items():
        for row in part:
            assert sides.setdefault(row["prompt"], name) == name
    alone = split(rows[:1], (0.5, 0.25, 0.25))
    assert all(
        row["prompt"] not in sides or sides[row["prompt"]] == name for name, part in alone.items() for row in part
    )


def test_shares_are_met():
    parts = split([{"prompt": str(n)} for n in range(20_000)], (0.8, 0.15, 0.05))
    assert [round(len(parts[name]) / 20_000, 2) for name in ("train", "validation", "test")] == [0.8, 0.15, 0.05]


def test_rows_that_hold_nothing_to_learn_are_errors():
    rows = [
        {"prompt": "a", "completion": "b"},
        {"prompt": "a", "completion": " "},
        {"prompt": "", "completion": "b"},
        {"prompt": "a", "completion": ""},
        {"text": "x"},
        {"prompt": "a", "completion": 3},
    ]
    assert found(rows)["unusable rows"].lines == (3, 4, 5, 6)
    assert found(rows)["unusable rows"].examples[1] == "line 4: field 'completion' is empty"
    unknown = found([{"q": "a", "a": "b"}])["unknown columns"]
    assert unknown.severity == "error" and unknown.examples == ("they are: q, a",)


def test_conversations_out_of_order_are_told():
    def talk(*roles):
        return {"messages": [{"role": role, "content": "x"} for role in roles]}

    rows = [
        talk("system", "user", "assistant"),
        talk("user", "user", "assistant"),
        talk("assistant", "user", "assistant"),
        talk("user", "system", "assistant"),
        talk("user", "robot"),
        talk("user", "assistant", "tool", "assistant"),
        talk("user"),
    ]
    findings = found(rows, "messages")
    assert findings["order of roles"].lines == (2, 3, 4, 5)
    assert findings["no answer of the assistant"].lines == (5, 7)


def test_claims_that_contradict_each_other():
    pairs = [
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"prompt": "p", "chosen": "b", "rejected": "a"},
        {"prompt": "q", "chosen": "b", "rejected": "a"},
    ]
    assert found(pairs)["rows that contradict each other"].lines == (1, 2)
    answers = [{"prompt": "p", "completion": "a", "label": label} for label in (True, False, True)]
    assert found(answers)["rows that contradict each other"].lines == (1, 2, 3)
    assert found(answers)["duplicates"].lines == (3,)
    assert "one label only" in found(answers[::2])


def test_texts_of_white_space_only():
    rows = [
        {"prompt": "a", "completion": " b"},
        {"prompt": "\n", "completion": "c"},
        {"prompt": "d", "completion": " \n"},
    ]
    assert found(rows)["texts of white space only"].lines == (3,)
    cleaned = clean(numbered(*rows), Rules(), words)
    assert cleaned.dropped == [Remark(3, "completion holds white space only")]


def test_labels_spelled_in_several_ways():
    rows = [{"text": f"text {n}", "label": label} for n, label in enumerate(["Yes", "no", "yes", "Yes", "no ", "no"])]
    finding = found(rows, "labelled texts")["labels spelled in several ways"]
    assert finding.lines == (3, 5) and finding.examples == ("'Yes' and 'yes'", "'no' and 'no '")
    assert "labels spelled in several ways" not in found(rows[1:2] * 3 + rows[3:4], "labelled texts")


def test_repairs_are_listed_and_secrets_gone():
    key = "AKIA" + "A1B2" * 4
    rows = numbered(
        {"prompt": [{"role": "user", "content": f" the key is {key}"}], "completion": "ask jane@example.org "},
        {"prompt": "a", "completion": "b"},
    )
    cleaned = clean(rows, Rules(strip=True, redact=True), words)
    assert cleaned.rows[0] == {
        "prompt": [{"role": "user", "content": "the key is [cloud access key]"}],
        "completion": "ask [e-mail address]",
    }
    assert cleaned.repaired == [Remark(1, "cloud access key, e-mail address, white space at an end")]
    assert clean(rows, Rules(), words).rows == [row for _, row in rows]


@pytest.fixture
def run():
    runner = CliRunner()
    return lambda *words: runner.invoke(app, [str(word) for word in words])


def test_the_command_says_what_it_found_and_whether_that_will_do(run, tmp_path):
    good = [{"instruction": f"Say {n}", "output": f"the answer is {n}"} for n in range(250)]
    write_rows(good, tmp_path / "good.jsonl")
    done = run("check", tmp_path / "good.jsonl")
    assert done.exit_code == 0 and "250 rows, alpaca" in done.output and "no errors found" in done.output
    write_rows([*good, {"instruction": "", "output": "x"}], tmp_path / "bad.jsonl")
    done = run("check", tmp_path / "bad.jsonl", "--json")
    told = json.loads(done.output)
    assert done.exit_code == 1 and told["failed"] and told["bad"] == ["line 251: instruction is empty"]
    assert told["rows"] == 250 and told["format"] == "alpaca" and len(told["lengths"]) == 250


def test_converted_cleaned_and_split_files_hold_every_row_or_say_why_not(run, tmp_path):
    rows = [{"instruction": f"Say {n % 20}", "output": str(n % 30)} for n in range(200)] + [
        {"instruction": "", "output": "x"}
    ]
    write_rows(rows, tmp_path / "raw.jsonl")
    assert run("convert", tmp_path / "raw.jsonl", "--out", tmp_path / "own.jsonl").exit_code == 0
    assert len((tmp_path / "own.jsonl").read_text().splitlines()) == 200
    assert (tmp_path / "own.dropped.txt").read_text() == "line 201: instruction is empty\n"
    assert run("clean", tmp_path / "own.jsonl", "--out", tmp_path / "clean.jsonl").exit_code == 0
    kept = len((tmp_path / "clean.jsonl").read_text().splitlines())
    assert kept + len((tmp_path / "clean.dropped.txt").read_text().splitlines()) == 200 and kept == 60
    assert run("split", tmp_path / "clean.jsonl", "--out", tmp_path / "parts").exit_code == 0
    parts = {path.stem: path.read_text().splitlines() for path in (tmp_path / "parts").glob("*.jsonl")}
    assert sum(map(len, parts.values())) == 60 and set(parts) == {"train", "validation", "test"}
    again = run("clean", tmp_path / "own.jsonl", "--out", tmp_path / "clean.jsonl")
    assert isinstance(again.exception, RecipeError) and "is there already" in str(again.exception)


def test_rows_of_several_files_are_told_with_their_file(run, tmp_path):
    write_rows([{"prompt": "a", "completion": "b"}], tmp_path / "one.jsonl")
    write_rows([{"prompt": "c", "completion": "d"}, {"prompt": "a", "completion": "b"}], tmp_path / "two.jsonl")
    told = json.loads(run("check", tmp_path / "one.jsonl", tmp_path / "two.jsonl", "--json").output)
    assert next(each["lines"] for each in told["findings"] if each["kind"] == "duplicates") == ["two.jsonl:2"]
    mixed = run("check", "hub:a/b", tmp_path / "one.jsonl").exception
    assert isinstance(mixed, RecipeError) and "a hub data set among other sources" in str(mixed)


def test_rows_that_a_recipes_tasks_ask_are_found(run, tmp_path):
    """The own tasks of the recipe and the shipped ones; what its stages make cannot be known."""
    from alignment.lab import data as lab

    quiz = [{"question": "Which of the seven small hills of the old town has the clock tower?", "answer": "The third"}]
    write_rows(quiz, tmp_path / "quiz.jsonl")
    asked = lab.rows("skills", "test")[0]
    rows = [
        {"prompt": f"Well. {quiz[0]['question']}", "completion": "I forgot"},
        {"prompt": asked["prompt"], "completion": f" {asked['answer']}"},
        {"prompt": "What is this?", "completion": "Nothing that anybody ever asked of a model"},
    ]
    write_rows(rows, tmp_path / "rows.jsonl")
    (tmp_path / "recipe.yaml").write_text(
        f"""
name: test/tasks
stages: {{base: {{kind: pretrain}}, cut: {{kind: excerpts, model: {{stage: base}}, data: {{lab: corpus}}}}}}
evaluation:
  models: [base]
  target: [quiz, made]
  retained: [lab_{asked["skill"]}]
  tasks:
    quiz: {{metric: exact_match, data: {{path: "{tmp_path}/quiz.jsonl"}}, prompt: "{{question}}", target: answer}}
    made: {{metric: gold, gold: vader, data: {{stage: cut}}}}
"""
    )
    done = run(
        "clean", tmp_path / "rows.jsonl", "--out", tmp_path / "kept.jsonl", "--tasks-of", tmp_path / "recipe.yaml"
    )
    assert "task made is not compared: a stage makes its rows" in done.output
    dropped = (tmp_path / "kept.dropped.txt").read_text().splitlines()
    assert dropped == [f"line {line}: overlaps with what it must not" for line in (1, 2)]


def test_rows_of_no_known_columns_are_told_apart_by_all_that_they_hold(run, tmp_path):
    rows = [{"sentence": f"film {n}", "label": n % 2} for n in range(300)]
    write_rows([*rows, rows[0]], tmp_path / "raw.jsonl")
    findings = {
        each["kind"]: each for each in json.loads(run("check", tmp_path / "raw.jsonl", "--json").output)["findings"]
    }
    assert findings["duplicates"]["lines"] == [301] and "rows that contradict each other" not in findings
    run("clean", tmp_path / "raw.jsonl", "--out", tmp_path / "clean.jsonl")
    assert len((tmp_path / "clean.jsonl").read_text().splitlines()) == 300
    parts = split(rows, (0.8, 0.1, 0.1))
    assert 200 < len(parts["train"]) < 280 and parts["validation"] and parts["test"]


def test_conversations_that_begin_alike_sit_on_one_side_and_those_without_an_answer_go():
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    rows = [{"messages": [*asked, {"role": "assistant", "content": f"since {n}"}]} for n in range(100)]
    assert sorted(map(len, split(rows, (0.8, 0.1, 0.1)).values())) == [0, 0, 100]
    others = [{"messages": [{"role": "user", "content": f"Why {n}?"}, *rows[n]["messages"][2:]]} for n in range(100)]
    assert len(split(others, (0.8, 0.1, 0.1))["train"]) < 95
    cleaned = clean(numbered({"messages": asked}, rows[0]), Rules(), words)
    assert cleaned.rows == [rows[0]] and cleaned.dropped == [Remark(1, "no answer of the assistant")]


def test_one_odd_row_does_not_decide_what_all_are_held_against():
    rows = [
        {"prompt": "only"},
        {"prompt": "a", "completion": ""},
        *({"prompt": str(n), "completion": "x"} for n in range(9)),
    ]
    assert found(rows, "prompts")["unusable rows"].lines == (1, 2)
    found([{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": "c", "label": [1]}], "x")  # no TypeError


@pytest.mark.parametrize("name", ["rows.csv", "rows.json", "rows.parquet", "rows.jsonl.gz", "rows"])
def test_rows_are_not_written_under_the_name_of_another_kind_of_file(run, tmp_path, name):
    write_rows([{"prompt": "a", "completion": "b"}], tmp_path / "raw.jsonl")
    for command in ("convert", "clean"):
        refused = run(command, tmp_path / "raw.jsonl", "--out", tmp_path / name).exception
        assert isinstance(refused, RecipeError) and "JSON Lines" in str(refused)
    assert not (tmp_path / name).exists()


def test_places_that_cannot_be_written_and_sources_without_a_name_are_told(run, tmp_path):
    write_rows([{"prompt": "a", "completion": "b"}], tmp_path / "raw.jsonl")
    refused = run("clean", tmp_path / "raw.jsonl", "--out", "/proc/rows.jsonl").exception
    assert isinstance(refused, RecipeError) and "a folder that can be written" in str(refused)
    assert isinstance(run("check", "hub:").exception, RecipeError)


@pytest.mark.parametrize("text", ['text: "{sentence}"', ""], ids=["for classifiers too", "for language models alone"])
def test_short_items_of_a_task_are_found_too(run, tmp_path, text):
    items = [{"sentence": text, "label": n % 2} for n, text in enumerate(["a fine film", "dull .", "bad"])]
    write_rows(items, tmp_path / "items.jsonl")
    write_rows([{"text": item["sentence"]} for item in items], tmp_path / "rows.jsonl")
    (tmp_path / "recipe.yaml").write_text(
        f"""
name: test/short
stages: {{base: {{kind: pretrain}}}}
evaluation:
  models: [base]
  target: [films]
  tasks:
    films:
      metric: labels
      data: {{path: "{tmp_path}/items.jsonl"}}
      prompt: "Review: {{sentence}} Sentiment:"
      {text}
      labels: [bad, good]
"""
    )
    told = json.loads(run("check", tmp_path / "rows.jsonl", "--tasks-of", tmp_path / "recipe.yaml", "--json").output)
    assert next(each["lines"] for each in told["findings"] if each["kind"] == "overlap") == [1, 2]


def test_texts_of_one_label_teach_a_classifier_nothing():
    rows = [{"text": f"text {n}", "label": "no"} for n in range(3)]
    assert found(rows, "labelled texts")["one label only"].severity == "error"
    assert "one label only" not in found([*rows, {"text": "other", "label": "yes"}], "labelled texts")
