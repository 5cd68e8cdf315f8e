"""`align check` on tasks: rows of local files, suites, leave to run programs, packages, margins, examples. Nothing heavy is loaded."""

import json
import subprocess
import sys

import pytest

from alignment.core.errors import DataError, RecipeError
from eval import task_packages
from recipes.check import check_recipe
from recipes.schema import parse_recipe

ROWS = [{"question": f"w{i}", "choices": ["red", "blue"], "answer": i % 2} for i in range(6)]


def recipe(tmp_path, tasks=None, comparison=None, **evaluation):
    raw = {
        "name": "test/tasks",
        "stages": {"base": {"kind": "pretrain"}},
        "evaluation": {"models": ["base"], "tasks": tasks or {}} | evaluation,
        "comparison": comparison or {},
    }
    return parse_recipe(raw, "recipe.yaml")


def choices(tmp_path, rows=ROWS, **options):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"q": {"metric": "choices", "data": {"path": str(tmp_path / "rows.jsonl")}} | options}


def test_every_row_of_a_local_task_is_read(tmp_path):
    (checked,) = check_recipe(recipe(tmp_path, choices(tmp_path), retained=["q"]))
    assert (checked.where, checked.rows) == ("evaluation.tasks.q.data", 6)
    bad = [*ROWS, {"question": "w", "choices": ["red", "blue"], "answer": "1"}]
    with pytest.raises(DataError, match=r"1 of 7 rows do not fit:\n    rows\.jsonl, line 7: 'answer' is '1'"):
        check_recipe(recipe(tmp_path, choices(tmp_path, bad), retained=["q"]))


def test_a_wrong_key_is_answered_with_the_keys_of_its_kind_of_task(tmp_path):
    with pytest.raises(RecipeError) as error:
        recipe(tmp_path, choices(tmp_path, answr="gold"), retained=["q"])
    assert "evaluation.tasks.q.choices.answr: unknown key" in str(error.value)
    assert error.value.remedy == "did you mean answer?"
    assert "max_new_tokens" not in error.value.expected, "belongs to other kinds of task"
    with pytest.raises(RecipeError, match="does not match any of the expected tags"):
        recipe(tmp_path, choices(tmp_path, metric="acc"), retained=["q"])


def test_suites_are_checked_by_name_without_loading_lm_eval(tmp_path):
    code = (
        "import sys\n"
        "from recipes.check import check_recipe\nfrom recipes.schema import parse_recipe\n"
        "raw = {'name': 'x', 'stages': {'base': {'kind': 'pretrain'}},"
        " 'evaluation': {'models': ['base'], 'retained': ['retained-general', 'lab_retained'], 'extra': ['lab_facts@chat']}}\n"
        "check_recipe(parse_recipe(raw, 'r'))\n"
        "print({'torch', 'transformers', 'datasets', 'lm_eval'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "set()"


def test_programs_of_the_model_need_leave(tmp_path):
    with pytest.raises(RecipeError, match=r"evaluation\.retained: humaneval: runs programs that the model writes"):
        check_recipe(recipe(tmp_path, retained=["retained-code-math"]))
    check_recipe(recipe(tmp_path, retained=["retained-code-math"], run_generated_code=True))


def test_packages_that_are_missing_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(task_packages, "_installed", lambda name: name != "langdetect")
    with pytest.raises(RecipeError) as error:
        check_recipe(recipe(tmp_path, target=["instruction"]))
    assert "evaluation.target: ifeval: needs packages that are not installed: langdetect" in str(error.value)
    assert error.value.remedy == "pip install langdetect"


def test_a_metric_without_a_margin_is_found_before_anything_runs(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text("task: mine\noutput_type: multiple_choice\nmetric_list: [{metric: f1}, {metric: mcc}]\n")
    with pytest.raises(RecipeError, match="mine: is judged by f1, for which there is no margin"):
        check_recipe(recipe(tmp_path, retained=[str(path)]))
    check_recipe(recipe(tmp_path, retained=[str(path)], comparison={"margin": {"f1": 0.02}}))


def test_a_task_comes_once_also_inside_a_group(tmp_path):
    with pytest.raises(RecipeError, match="task 'lab_facts' comes twice"):
        check_recipe(recipe(tmp_path, target=["lab_facts"], retained=["lab_retained"]))
    check_recipe(recipe(tmp_path, extra=["lab_facts@chat"], retained=["lab_retained"]))


def test_examples_must_lie_beside_the_questions(tmp_path):
    with pytest.raises(RecipeError, match="2 examples to show, 0 there are beside the questions"):
        check_recipe(recipe(tmp_path, choices(tmp_path), retained=["q"], fewshot=2))
    check_recipe(recipe(tmp_path, choices(tmp_path, limit=3), retained=["q"], fewshot=2))
    with pytest.raises(RecipeError, match="3 examples to show, 3 there are"):
        check_recipe(recipe(tmp_path, choices(tmp_path, limit=3), retained=["q@3shot"]))


def test_a_task_that_asks_nothing_has_no_variants(tmp_path):
    tasks = choices(tmp_path, [{"good": "a", "bad": "b"}], metric="pairs")
    check_recipe(recipe(tmp_path, tasks, retained=["q"], formats=["plain", "chat"], fewshot=2))
    with pytest.raises(RecipeError, match="task 'q' asks no question"):
        check_recipe(recipe(tmp_path, tasks, retained=["q@chat"]))
