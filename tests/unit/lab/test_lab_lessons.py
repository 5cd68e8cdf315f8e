"""A base that never saw some skills, and the rows that teach them later."""

from itertools import islice

import pytest
from pydantic import ValidationError

from alignment.core.artifact import digest_of
from alignment.core.config import DataRef
from alignment.core.errors import DataError
from alignment.data.rows import load_rows
from alignment.lab import corpus, data, skills
from alignment.lab.config import PretrainConfig

OPENINGS = {
    "facts": ("Question: Where", "Question: In which", "Question: Which town", "Question: As what"),
    "odd": ("Question: Which one does not fit",),
    "compare": ("Question: Is ",),
    "add": ("Question: What is 1", "Question: What is 2", "Question: What is 3"),
    "sentiment": ("Review:",),
    "sort": ("Question: Sort",),
    "backwards": ("Question: Say backwards",),
}


def prompts(leave_out):
    return [document.prompt for document in islice(corpus.documents("train", 0, leave_out), 4000)]


@pytest.mark.parametrize("skill", OPENINGS)
def test_a_skill_that_is_left_out_is_never_shown_and_the_others_are(skill):
    shown = prompts([skill])
    assert not any(prompt.startswith(OPENINGS[skill]) for prompt in shown)
    assert any(prompt.startswith(OPENINGS[skill]) for prompt in prompts([]))
    for other in OPENINGS.keys() - {skill}:
        assert any(prompt.startswith(OPENINGS[other]) for prompt in shown), other


def test_leaving_nothing_out_is_the_corpus_of_old():
    """The digest was taken before there was a choice: a base in the store stays what the recipe makes."""
    texts = [document.text for document in islice(corpus.documents("train", 0, []), 2000)]
    assert texts == [document.text for document in islice(corpus.documents("train", 0), 2000)]
    assert digest_of(texts) == "1bbc5ff21038de7cf621c41ee286fa3a3be66b5874daa2940cc6e398eb9aab2f"


def test_a_base_that_leaves_nothing_out_keeps_its_identity():
    assert "leave_out" not in PretrainConfig().model_dump(mode="json")
    assert PretrainConfig(leave_out=["add"]).model_dump(mode="json")["leave_out"] == ["add"]


@pytest.mark.parametrize(("names", "message"), [(["adding"], "no skill 'adding'"), (["add", "add"], "each skill once")])
def test_what_cannot_be_left_out_is_refused(names, message):
    with pytest.raises(ValidationError, match=message):
        PretrainConfig(leave_out=names)


@pytest.mark.parametrize("skill", skills.SKILLS)
def test_lessons_are_the_skills_own_items_and_their_test_split_is_what_the_task_asks(skill):
    taught, asked = data.rows(f"skill-{skill}", "train"), data.rows(f"skill-{skill}", "test")
    tested = [row for row in data.rows("skills", "test") if row["skill"] == skill]
    assert asked == [{"prompt": row["prompt"], "completion": f" {row['answer']}"} for row in tested]
    assert not {row["prompt"] for row in taught} & {row["prompt"] for row in asked}
    assert len(taught) >= 600


def test_lessons_have_no_split_of_unseen_names():
    with pytest.raises(DataError, match="no split 'generalisation'"):
        data.rows("skill-add", "generalisation")


def test_lessons_of_several_skills_take_turns_and_hold_each_whole():
    both = data.rows("skill-facts+sort", "train")
    facts, sort = (data.rows(f"skill-{skill}", "train") for skill in ("facts", "sort"))
    assert both[:4] == [facts[0], sort[0], facts[1], sort[1]]
    assert len(both) == len(facts) + len(sort) and len(facts) < len(sort)


@pytest.mark.parametrize("name", ["skill-", "skill-adding", "skill-add+add", "skill-add+", "guest"])
def test_no_such_lessons(name):
    assert not data.known(name)
    with pytest.raises(DataError, match="the lab has no data set"):
        load_rows(DataRef(lab=name))
