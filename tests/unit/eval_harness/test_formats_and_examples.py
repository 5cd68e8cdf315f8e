"""One task asked plainly and in the chat format, and with examples before the question: what the model really sees."""

import pytest
from test_evaluate_stage import choice_task, gold_task, measure, write_task

from alignment.core.config import DataRef
from alignment.core.errors import RecipeError
from alignment.data.rows import write_rows
from eval.catalogue import find_tasks
from eval.config import EvaluateConfig
from eval.task_config import ChoicesTask, ExactTask, PairsTask


def tasks_of(tasks=None, **config):
    return find_tasks(EvaluateConfig(model={"stage": "sft"}, tasks=tasks or {}, **config), {})


def test_a_retained_task_is_asked_in_both_formats(tiny, tmp_path):
    path = choice_task(tmp_path)
    summary, evaluation, items = measure(tiny, tmp_path / "out", retained=[path], formats=["plain", "chat"])
    assert list(summary) == ["colours", "colours@chat"]
    plain, chat = evaluation["tasks"]["colours"], evaluation["tasks"]["colours@chat"]
    assert (plain["role"], chat["role"]) == ("retained", "extra")
    assert (plain["format"], chat["format"]) == ("plain", "chat")
    assert plain["data_digest"] == chat["data_digest"]
    prompts = {task: [item["prompt"] for item in items if item["task"] == task] for task in summary}
    assert prompts["colours"][0] == "Question: w0 w1 Answer:"
    assert prompts["colours@chat"][0] == "<|user|> Question: w0 w1 Answer: <|end|><|assistant|>"
    alone, _, before = measure(tiny, tmp_path / "alone", retained=[path])
    assert alone["colours"] == summary["colours"]
    assert before == [item for item in items if item["task"] == "colours"]


def test_a_task_is_named_with_the_format_that_is_not_its_own(tmp_path):
    path = choice_task(tmp_path)
    assert [task.name for task in tasks_of(retained=[f"{path}@chat"])] == ["colours@chat"]
    assert [task.name for task in tasks_of(retained=[f"{path}@plain"])] == ["colours"]
    named = tasks_of(retained=[f"{path}@chat"], formats=["plain", "chat"])
    assert [(task.name, task.role) for task in named] == [("colours@chat", "retained")]
    with pytest.raises(RecipeError, match="'colours' comes twice"):
        tasks_of(retained=[path, f"{path}@plain"])


def test_targets_and_texts_are_not_asked_twice(tmp_path):
    data = DataRef(path=str(tmp_path / "rows.jsonl"))
    write_rows([{"good": "w1", "bad": "w2"}], tmp_path / "rows.jsonl")
    pairs = PairsTask(metric="pairs", data=data)
    found = tasks_of({"pairs": pairs}, target=[choice_task(tmp_path)], retained=["pairs"], formats=["chat"])
    assert [task.name for task in found] == ["colours", "pairs"]
    with pytest.raises(RecipeError, match="cannot be asked as 'pairs@chat': it asks no question"):
        tasks_of({"pairs": pairs}, retained=["pairs@chat"])


def test_chat_messages_cannot_be_asked_plainly(tmp_path):
    chat = gold_task(tmp_path, [[{"role": "user", "content": "w1"}]])
    with pytest.raises(RecipeError, match="cannot be asked as 'answers@plain': its prompts are chat messages"):
        tasks_of({"answers": chat}, retained=["answers@plain"])
    assert [task.name for task in tasks_of({"answers": chat}, retained=["answers"], formats=["plain"])] == ["answers"]


def questions(tmp_path, count=6, **options):
    rows = [{"question": f"w{i}", "choices": ["red", "blue"], "answer": i % 2} for i in range(count)]
    write_rows(rows, tmp_path / "rows.jsonl")
    return ChoicesTask(metric="choices", data=DataRef(path=str(tmp_path / "rows.jsonl")), **options)


@pytest.mark.parametrize("how", ["block", "name"])
def test_examples_come_from_the_rows_that_are_not_asked(tiny, tmp_path, how):
    task = questions(tmp_path, limit=2)
    config = {"retained": ["q"], "fewshot": 2} if how == "block" else {"retained": ["q@2shot"]}
    summary, evaluation, items = measure(tiny, tmp_path / "out", {"q": task}, **config)
    (name,) = summary
    assert name == ("q" if how == "block" else "q@2shot")
    assert evaluation["tasks"][name]["shots"] == 2
    for number, item in enumerate(items):
        *shown, asked, end = item["prompt"].split("\n\n") + [""]
        assert (asked, end) == (f"w{number}", "")
        assert len(shown) == 2
        for example in shown:
            word, colour = example.split(" ")
            assert int(word[1:]) >= 2, "an example that is asked, too"
            assert colour == ["red", "blue"][int(word[1:]) % 2]


def test_examples_may_lie_in_a_file_of_their_own(tiny, tmp_path):
    write_rows(
        [{"question": f"w{i}", "choices": ["red", "blue"], "answer": "red"} for i in (20, 21, 22)], tmp_path / "e.jsonl"
    )
    task = questions(tmp_path, examples=DataRef(path=str(tmp_path / "e.jsonl")))
    _, _, items = measure(tiny, tmp_path / "out", {"q": task}, retained=["q@1shot"])
    assert len(items) == 6
    assert all(item["prompt"].split(" red\n\n")[0] in ("w20", "w21", "w22") for item in items)


def test_examples_are_turns_of_a_chat(tiny, tmp_path):
    _, _, items = measure(tiny, tmp_path / "out", {"q": questions(tmp_path, limit=1)}, retained=["q@chat@1shot"])
    first, second = items[0]["prompt"].split("<|assistant|>")[:2]
    assert first.startswith("<|user|> w")
    assert second.strip().split()[0] in ("red", "blue")
    assert items[0]["prompt"].endswith("<|user|> w0 <|end|><|assistant|>")


def test_without_rows_for_examples_there_are_none(tmp_path):
    """lm-eval would fall back to the questions themselves and show some their own answer."""
    with pytest.raises(RecipeError, match="3 examples to show, 0 there are beside the questions"):
        tasks_of({"q": questions(tmp_path)}, retained=["q"], fewshot=3)
    with pytest.raises(RecipeError, match="4 examples to show, 4 there are"):
        tasks_of({"q": questions(tmp_path, limit=2)}, retained=["q@4shot"])
    with pytest.raises(RecipeError, match="2 examples to show, 0 there are"):
        tasks_of(retained=[f"{choice_task(tmp_path)}@2shot"])


def test_a_task_that_says_0_keeps_it_and_others_follow_the_recipe(tmp_path):
    declared = {"output_type": "multiple_choice", "doc_to_text": "q", "doc_to_choice": "c", "doc_to_target": "a"}
    metrics = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    rows = [{"q": "w1", "c": ["yes", "no"], "a": 0}] * 3
    common = {"rows": rows, "metric_list": metrics, "fewshot_split": "test", **declared}
    paths = [write_task(tmp_path, f"t{shots}", num_fewshot=shots, **common) for shots in (0, 1, None)]
    assert [task.shots for task in tasks_of(retained=paths)] == [0, 1, 0]
    assert [task.shots for task in tasks_of(retained=paths, fewshot=2)] == [0, 2, 2]
    assert [task.shots for task in tasks_of(retained=[f"{paths[0]}@2shot"])] == [2]


def test_the_lab_s_examples_are_training_items(tmp_path):
    for task in tasks_of(target=["lab_service"], retained=["lab_retained"], fewshot=3, formats=["chat"]):
        assert task.shots == 3
        asked = {task.task.doc_to_text(doc) for doc in task.task.eval_docs}
        shown = {task.task.doc_to_text(doc) for doc in task.task.sampler.df}
        assert len(task.task.sampler.df) == 100
        assert not asked & shown, task.name


def test_options_that_are_off_do_not_change_what_identifies_an_evaluation():
    plain = EvaluateConfig(model={"stage": "sft"}, retained=["lab_facts"])
    for option in ("formats", "fewshot", "samples", "run_generated_code"):
        assert option not in plain.model_dump()
    on = EvaluateConfig(
        model={"stage": "sft"}, retained=["lab_facts"], formats=["chat"], fewshot=0, samples=2, run_generated_code=True
    )
    assert {"formats", "fewshot", "samples", "run_generated_code"} <= on.model_dump().keys()


def test_own_task_files_are_known_without_their_variant():
    config = EvaluateConfig(model={"stage": "sft"}, retained=["a.yaml", "a.yaml@chat"], extra=["b.yml@2shot"])
    assert config.task_files() == ["a.yaml", "b.yml"]


def test_a_pooled_group_is_one_score_clustered_by_its_parts(tiny, tmp_path):
    group = tmp_path / "mine.yaml"
    skills = "{group: skills, task: [lab_odd, lab_sentiment]}"
    group.write_text(f"group: mine\ntask: [lab_agreement, {skills}]\nmetadata: {{pooled: [skills]}}\n")
    summary, evaluation, items = measure(tiny, tmp_path / "out", retained=[str(group)], limit=6)
    assert list(summary) == ["lab_agreement", "skills"]
    pooled = [item for item in items if item["task"] == "skills"]
    assert [item["cluster"] for item in pooled] == ["lab_odd"] * 6 + ["lab_sentiment"] * 6
    entry = evaluation["tasks"]["skills"]
    assert entry["value"] == summary["skills"] == sum(item["score"] for item in pooled) / 12
    assert (entry["n"], entry["chance"]) == (12, (1 / 4 + 1 / 2) / 2)


def test_only_scores_of_one_kind_are_pooled(tmp_path):
    group = tmp_path / "mine.yaml"
    group.write_text("group: mine\ntask: [lab_retained]\nmetadata: {pooled: [lab_retained]}\n")
    with pytest.raises(RecipeError, match="pools tasks that are judged by acc and exact_match"):
        tasks_of(retained=[str(group)])


def test_an_exact_task_shows_the_target_as_the_answer(tiny, tmp_path):
    write_rows([{"prompt": f"w{i}", "target": ["red", "blue"]} for i in range(4)], tmp_path / "rows.jsonl")
    task = ExactTask(metric="exact_match", data=DataRef(path=str(tmp_path / "rows.jsonl")), limit=1, max_new_tokens=3)
    _, _, items = measure(tiny, tmp_path / "out", {"say": task}, retained=["say@1shot"])
    assert items[0]["prompt"] in [f"w{i} red\n\nw0" for i in (1, 2, 3)]
