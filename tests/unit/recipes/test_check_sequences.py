"""What `align check` refuses in `comparison.sequences` and `comparison.relearning`, and what it lets pass."""

import copy

import pytest

from alignment.core.errors import RecipeError
from recipes.check import check_recipe
from recipes.schema import parse_recipe


def sorting(model):
    watch = {"every": 5, "tasks": ["lab_sort"]}
    return {"kind": "sft", "model": {"stage": model}, "data": {"lab": "skill-sort"}, "steps": 10, "evaluate": watch}


RECIPE = {
    "name": "test/sequence",
    "stages": {
        "base": {"kind": "pretrain", "seed": 0, "leave_out": ["add", "sort"]},
        "s": sorting("base"),
        "s-a": {"kind": "sft", "model": {"stage": "s"}, "data": {"lab": "skill-add"}, "steps": 10},
        "again": sorting("s-a"),
    },
    "evaluation": {"models": ["base", "s", "s-a", "again"], "target": ["lab_sort", "lab_add"]},
    "comparison": {
        "sequences": [{"name": "s-a", "base": "base", "stages": {"s": "lab_sort", "s-a": "lab_add"}}],
        "relearning": [{"task": "lab_sort", "lost": "again", "never": "s"}],
    },
}


def checked(*changes):
    raw = copy.deepcopy(RECIPE)
    for path, value in changes:
        *parents, last = path
        block = raw
        for part in parents:
            block = block[part]
        block[last] = value
    return check_recipe(parse_recipe(raw, "recipe.yaml"))


SEQUENCE, PROBE = ("comparison", "sequences", 0), ("comparison", "relearning", 0)
ORDER = {"name": "x", "base": "base", "stages": {"s": "lab_sort", "s-a": "lab_facts"}}
REFUSED = {
    "an unmeasured stage": (
        [((*SEQUENCE, "base"), "bass")],
        "comparison.sequences.0",
        "'bass' is not among the evaluated models",
    ),
    "an unmeasured task": (
        [((*SEQUENCE, "stages"), {"s": "lab_sort", "s-a": "lab_facts"})],
        "comparison.sequences.0",
        "task 'lab_facts' is not measured",
    ),
    "stages out of order": (
        [((*SEQUENCE, "stages"), {"s-a": "lab_add", "s": "lab_sort"})],
        "comparison.sequences.0.stages",
        "'s-a' does not go on from 'base' but from 's'",
    ),
    "stages side by side": (
        [(("stages", "s-a", "model"), {"stage": "base"})],
        "comparison.sequences.0.stages",
        "'s-a' does not go on from 's' but from 'base'",
    ),
    "other tasks by one method": (
        [
            (("evaluation", "target"), ["lab_sort", "lab_add", "lab_facts"]),
            (("comparison", "sequences"), [RECIPE["comparison"]["sequences"][0], ORDER]),
        ],
        "comparison.sequences.1.method",
        "sequences of 'all orders' teach different tasks",
    ),
    "a curve that nobody measures": (
        [(("stages", "again", "evaluate"), None)],
        "comparison.relearning.0",
        "'again' is not measured on 'lab_sort' while it is trained",
    ),
    "a curve of another task": (
        [(("stages", "s", "evaluate", "tasks"), ["lab_add"])],
        "comparison.relearning.0",
        "'s' is not measured on 'lab_sort' while it is trained",
    ),
    "a curve on some items": (
        [(("stages", "s", "evaluate", "limit"), 10)],
        "stages.s.evaluate",
        "limit or best is set",
    ),
    "another training": (
        [(("stages", "again", "learning_rate"), 0.01)],
        "comparison.relearning.0",
        "'again' and 's' are not trained alike: learning_rate differ",
    ),
    "a start that is not measured": (
        [(("evaluation", "models"), ["base", "s", "again"]), (("comparison", "sequences"), [])],
        "comparison.relearning.0",
        "'s-a' is not among the evaluated models",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_answer_the_question_is_refused(name):
    changes, where, what = REFUSED[name]
    with pytest.raises(RecipeError) as caught:
        checked(*changes)
    assert (caught.value.where, caught.value.what) == (where, what)
    assert caught.value.expected and caught.value.remedy


def test_a_sound_recipe_passes_with_the_rows_of_its_lessons():
    assert {each.source for each in checked()} == {"lab:skill-sort", "lab:skill-add"}


def test_a_stage_between_two_lessons_is_no_break_in_the_chain():
    """Such as a stage of replay that teaches nothing new and is not measured."""
    between = {"kind": "sft", "model": {"stage": "s"}, "data": {"lab": "corpus"}, "steps": 1}
    checked((("stages", "rest"), between), (("stages", "s-a", "model"), {"stage": "rest"}))


def test_an_extra_task_is_known_by_name_and_named_once():
    checked((("evaluation", "extra"), ["lab_service_generalisation"]))
    with pytest.raises(RecipeError, match="'lab_sort' is named twice"):
        checked((("evaluation", "extra"), ["lab_sort"]))
    with pytest.raises(RecipeError, match=r"evaluation.extra: lab_sorts: no such task"):
        checked((("evaluation", "extra"), ["lab_sorts"]))
