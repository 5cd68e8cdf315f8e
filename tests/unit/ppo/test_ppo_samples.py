"""Rollouts to read: which are shown, and that no text of a model can spoil the log they are shown in."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from alignment.core.runlog import append_rows, drop_rows_after
from alignment.generation.engine import Completion
from alignment.ppo.samples import sample_rows, table


def answer(length=3, finished=True):
    return Completion([1, 2], list(range(length)), [-1.0] * length, finished)


def row(**changed):
    plain = {
        "step": 1,
        "prompt": "How are you?",
        "answer": "Well.",
        "score": 1.25,
        "kl": 0.5,
        "length": 4,
        "finished": True,
    }
    return plain | {"gold": None} | changed  # fmt: skip


def test_a_row_holds_everything_about_its_own_rollout():
    rows = sample_rows(
        7,
        [answer(3), answer(9, finished=False)],
        [("one?", "eins"), ("two?", "zwei")],
        [0.5, 2.0],
        [0.1, 4.0],
        [0.9, 0.2],
        count=2,
    )
    first = {
        "step": 7,
        "prompt": "two?",
        "answer": "zwei",
        "score": 2.0,
        "kl": 4.0,
        "length": 9,
        "finished": False,
        "gold": 0.2,
    }
    second = {
        "step": 7,
        "prompt": "one?",
        "answer": "eins",
        "score": 0.5,
        "kl": 0.1,
        "length": 3,
        "finished": True,
        "gold": 0.9,
    }
    assert rows == [first, second]  # fmt: skip


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [9.0]), (2, [9.0, 0.0]), (4, [9.0, 6.0, 3.0, 0.0]), (10, [9.0 - n for n in range(10)]), (99, [9.0 - n for n in range(10)])],
)  # fmt: skip
def test_the_highest_and_the_lowest_score_are_shown_and_some_between(count, expected):
    scores = [4.0, 9.0, 0.0, 7.0, 1.0, 3.0, 8.0, 2.0, 6.0, 5.0]
    rows = sample_rows(1, [answer()] * 10, [("p", "a")] * 10, scores, [0.0] * 10, None, count)
    assert [row["score"] for row in rows] == expected and rows[0]["gold"] is None


def test_the_table_is_two_lines_a_rollout():
    assert table([row(gold=0.75), row(score=-10.5, kl=123.4, length=256, finished=False, answer="Bad", gold=0.0)]) == (
        "  score      KL  length  end   gold  prompt -> answer\n"
        "   1.25    0.50       4  EOS   0.75  How are you?\n"
        "                                     -> Well.\n"
        " -10.50  123.40     256  cut   0.00  How are you?\n"
        "                                     -> Bad"
    )


def test_no_column_for_a_gold_score_that_nobody_gives():
    assert table([row()]) == (
        "  score      KL  length  end  prompt -> answer\n"
        "   1.25    0.50       4  EOS  How are you?\n"
        "                              -> Well."
    )
    assert table([]) == ""


def test_a_long_text_keeps_its_beginning_and_its_end():
    shown = table([row(answer="Begin " + "word " * 500 + "the end.")]).splitlines()[2]
    assert cell_len(shown) <= 120
    assert shown.strip().startswith("-> Begin word") and " … " in shown and shown.endswith("word the end.")


@pytest.mark.parametrize(
    ("evil", "shown"),
    [
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("abc\u202edef", r"abc\u202edef"),  # turns the rest of the line around
        ("\x00\x7f\u2028", r"\x00\x7f\u2028"),
        ("\ud800", r"\ud800"),  # half a character: no file could take it
        ("naïve 日本 🙂 \\frac", "naïve 日本 🙂 \\frac"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(evil, shown):
    lines = table([row(prompt=evil, answer=evil)]).split("\n")
    assert lines[1].endswith(f"  {shown}") and lines[2].endswith(f"-> {shown}")


@given(st.text(), st.text())
def test_whatever_a_model_says_the_table_keeps_its_shape(prompt, said):
    shown = table([row(prompt=prompt, answer=said)])
    assert len(shown.splitlines()) == 3  # also at every separator that Python or a pager knows
    assert shown.replace("\n", "").isprintable() and max(map(cell_len, shown.split("\n"))) <= 120
    shown.encode()


def test_samples_of_steps_that_are_done_again_are_not_doubled(tmp_path):
    path = tmp_path / "samples.jsonl"
    drop_rows_after(path, 3)  # nothing yet
    for step in (5, 10, 15):
        append_rows(path, [row(step=step, answer="a\u2028\n\ud800"), row(step=step)])
    with path.open("a") as file:
        file.write('{"step": 20, "pro')
    drop_rows_after(path, 10)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == [5, 5, 10, 10] and rows[0]["answer"] == "a\u2028\n\ud800"
