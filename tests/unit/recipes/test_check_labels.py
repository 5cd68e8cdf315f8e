"""Labels of a classifier's rows and tasks are compared before anything is trained."""

import pytest

from alignment.core.errors import DataError, RecipeError
from alignment.data.rows import write_rows
from recipes.check import check_recipe
from recipes.schema import parse_recipe


@pytest.fixture
def check(tmp_path):
    def run(train=("good", "bad"), validation=("bad", "good"), task=("good", "bad"), values=None):
        for name, labels in {"train": train, "validation": validation, "task": task}.items():
            rows = [{"text": f"{name} {number}", "label": label} for number, label in enumerate(labels)]
            write_rows(rows, tmp_path / f"{name}.jsonl")
        data = {
            name: {"path": str(tmp_path / f"{name}.jsonl"), "values": values or {}} for name in ("train", "validation")
        }
        raw = {
            "name": "r",
            "stages": {
                "base": {"kind": "pretrained", "model": {"path": str(tmp_path)}},
                "clf": {
                    "kind": "classify",
                    "model": {"stage": "base"},
                    "data": data["train"],
                    "validation": data["validation"],
                    "steps": 2,
                },
            },
            "evaluation": {
                "models": ["clf"],
                "target": ["asked"],
                "tasks": {
                    "asked": {
                        "metric": "labels",
                        "prompt": "{text}: ",
                        "text": "{text}",
                        "labels": list(task),
                        "data": {"path": str(tmp_path / "task.jsonl")},
                    }
                },
            },
        }
        check_recipe(parse_recipe(raw, "recipe.yaml"))

    return run


def test_the_same_labels_pass_in_any_order(check):
    check()
    check(train=("1", "0"), validation=("0",), values={"label": ["bad", "good"]})


def test_one_label_is_nothing_to_learn(check):
    with pytest.raises(DataError, match=r"stages.clf.data: all rows have the label 'good'"):
        check(train=("good", "good"))


def test_validation_knows_no_other_labels(check):
    with pytest.raises(DataError, match=r"stages.clf.validation: labels that no training row has: Bad"):
        check(validation=("good", "Bad"))


def test_a_task_has_the_labels_that_are_learned(check):
    with pytest.raises(
        RecipeError, match=r"evaluation.tasks.asked.labels: its labels are bad, fine, .* learns bad, good"
    ):
        check(task=("fine", "bad"))
