"""The suites under eval/tasks/suites name tasks that the installed lm-eval has; what they need is known before anything runs."""

import importlib.util
from pathlib import Path

import pytest

from alignment.core.errors import RecipeError
from eval import task_files, task_packages
from eval.task_files import find, judged_metric, require_usable
from eval.task_packages import missing_packages

MEMBERS = {
    "retained-general": {"hellaswag", "arc_easy", "arc_challenge", "winogrande", "piqa", "lambada_openai"},
    "retained-code-math": {"gsm8k", "humaneval"},
    "instruction": {"ifeval"},
    "safety-bias": {"truthfulqa_mc1", "truthfulqa_mc2", "toxigen", "crows_pairs_english", "bbq"},
}


@pytest.mark.parametrize("suite", MEMBERS)
def test_every_member_of_a_suite_is_a_task_file_of_lm_eval(suite):
    lm_eval = Path(importlib.util.find_spec("lm_eval").origin).parent
    tasks = find(suite, "evaluation.retained")
    assert {task.name for task in tasks if task.pool is None} == MEMBERS[suite]
    for task in tasks:
        assert task.path.is_relative_to(lm_eval)
        assert task.config["task"] == task.name
        assert task.config["output_type"] in ("multiple_choice", "generate_until", "loglikelihood")


def test_mmlu_is_one_score_over_its_57_subjects():
    parts = [task for task in find("retained-general", "x") if task.pool]
    assert len(parts) == 57
    assert {task.pool for task in parts} == {"mmlu"}
    assert "mmlu_anatomy" in {task.name for task in parts}
    assert {task.pool for task in find("mmlu", "x")} == {None}  # only where a suite says so


def test_a_suite_declares_cluster_and_chance():
    by_name = {task.name: task for suite in MEMBERS for task in find(suite, "x")}
    assert by_name["hellaswag"].declared == {"cluster": "source_id"}
    assert by_name["lambada_openai"].declared == {"chance": 0}
    assert by_name["bbq"].declared == {"cluster": ["category", "question_index"]}


def test_the_lab_s_group_holds_its_eight_skills():
    assert len(find("lab_retained", "x")) == 8
    assert [task.name for task in find("lab_facts", "x")] == ["lab_facts"]


def test_tags_stand_for_their_tasks():
    assert {"arc_easy", "arc_challenge"} <= {task.name for task in find("ai2_arc", "x")}


def test_an_unknown_name_is_answered_with_a_near_one():
    with pytest.raises(RecipeError) as error:
        find("hellaswagg", "evaluation.retained")
    assert str(error.value).startswith("evaluation.retained: hellaswagg: no such task")
    assert error.value.remedy == "did you mean hellaswag?"
    with pytest.raises(RecipeError) as error:
        find("retained-generl", "evaluation.retained")
    assert error.value.remedy == "did you mean retained-general?"


def test_the_metric_that_judges_a_task_is_known_from_its_file():
    metrics = {task.name: task.metric for suite in MEMBERS for task in find(suite, "x") if task.pool is None}
    assert metrics == dict.fromkeys(MEMBERS["retained-general"], "acc") | {
        "gsm8k": "exact_match",
        "humaneval": "pass@1",
        "ifeval": "prompt_level_strict_acc",
        **dict.fromkeys(MEMBERS["safety-bias"] - {"crows_pairs_english"}, "acc"),
        "crows_pairs_english": "pct_stereotype",
    }
    assert judged_metric(["f1", "acc"]) == "acc"
    assert judged_metric(["bleu", "chrf"]) == "bleu"
    assert judged_metric(["pass_at_k"], {"pass_at_k": [8, 64]}) == "pass@8"


def test_tasks_that_run_the_model_s_programs_need_leave():
    humaneval = find("humaneval", "x")
    with pytest.raises(RecipeError, match="humaneval: runs programs that the model writes") as error:
        require_usable(humaneval, run_generated_code=False, where="evaluation.retained")
    assert "run_generated_code: true" in error.value.remedy
    require_usable(humaneval, run_generated_code=True, where="evaluation.retained")
    assert not any(task.runs_generated_code for task in find("gsm8k", "x"))


def test_packages_that_a_task_imports_are_found_without_importing_it(monkeypatch):
    """ifeval's functions import lm_eval.tasks.ifeval.instructions, which imports langdetect and immutabledict."""
    monkeypatch.setattr(
        task_packages, "_installed", lambda name: name not in ("langdetect", "immutabledict", "sacrebleu")
    )
    assert missing_packages(find("ifeval", "x")[0].config) == ["immutabledict", "langdetect"]
    assert missing_packages(find("truthfulqa_mc2", "x")[0].config) == ["sacrebleu"]
    with pytest.raises(RecipeError, match="ifeval: needs packages that are not installed") as error:
        require_usable(find("ifeval", "x"), False, "evaluation.target")
    assert error.value.remedy == "pip install immutabledict langdetect"
    monkeypatch.undo()
    assert missing_packages(find("hellaswag", "x")[0].config) == []


def test_a_group_file_of_one_s_own_may_pool_and_declare(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "group: mine\n"
        "task: [lab_facts, {task: lab_add, num_fewshot: 2}, blimp]\n"
        "metadata: {pooled: [blimp], tasks: {lab_facts: {limit: 7}}}\n"
    )
    tasks = {task.name: task for task in find(str(path), "x")}
    assert tasks["lab_facts"].declared == {"limit": 7}
    assert tasks["lab_add"].config["num_fewshot"] == 2
    assert sum(task.pool == "blimp" for task in tasks.values()) == 67


def test_a_broken_task_file_is_a_mistake_of_the_recipe(tmp_path):
    path = tmp_path / "broken.yaml"
    for text, message in {"task: [": "is not YAML", "a: 1": "names no task", "- a": "is no mapping"}.items():
        path.write_text(text)
        with pytest.raises(RecipeError, match=message):
            find(str(path), "x")
    path.write_text("group: g\ntask: [no_such_task_at_all]\n")
    with pytest.raises(RecipeError, match="unknown task 'no_such_task_at_all'"):
        find(str(path), "x")


@pytest.mark.slow
def test_every_name_that_lm_eval_indexes_is_found_here():
    """lm-eval's own index takes 17 seconds; ours must know the same tasks, groups and tags, at the same files."""
    from lm_eval.tasks import TaskManager

    index = TaskManager().task_index
    ours = task_files._harness().paths
    missing = [name for name, entry in index.items() if entry.yaml_path is not None and name not in ours]
    assert missing == []
    elsewhere = [
        name for name, entry in index.items() if entry.yaml_path and ours[name].resolve() != entry.yaml_path.resolve()
    ]
    assert elsewhere == []
    tags = {name: entry.tags for name, entry in index.items() if entry.yaml_path is None}
    assert {name: set(task_files._harness().tags.get(name, [])) for name in tags} == tags
