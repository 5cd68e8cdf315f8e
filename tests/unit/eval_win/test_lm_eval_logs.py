"""lm-eval's own logs as measurements: what is read, what is refused."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from real_logs import TASKS, run_lm_eval, write_tasks
from rich.console import Console

from alignment.core.errors import DataError, RecipeError, SuiteError
from alignment.models.load import load_causal_lm, load_tokenizer
from eval.compare import compare_models
from eval.lm_eval_logs import import_logs
from eval.results import MeasuredModel
from recipes.compare import compare_two

ALL = ["tiny_choices", "tiny_answer", "tiny_text", "tiny_last"]


@pytest.fixture(scope="module")
def logs(tiny_folder, tmp_path_factory):
    """Folders of logs: `a0`, `a1` of one arm and `b0`, `b1` of another, all of other weights."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("logs")
    include = write_tasks(root / "tasks")
    folders = {}
    for number, name in enumerate(["a0", "a1", "b0", "b1"]):
        model = load_causal_lm(tiny_folder, dropout=False)
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        model.save_pretrained(root / "models" / name)
        load_tokenizer(tiny_folder).save_pretrained(root / "models" / name)
        folders[name] = run_lm_eval(root / "models" / name, ALL, include, root / name)
    return folders


def results_of(folder: Path) -> Path:
    [path] = folder.rglob("results_*.json")
    return path


def samples_of(folder: Path, task: str) -> Path:
    [path] = folder.rglob(f"samples_{task}_*.jsonl")
    return path


def edit(folder: Path, change) -> None:
    path = results_of(folder)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def imported(path: Path, folder: Path, **options) -> MeasuredModel:
    import_logs(path, folder, **options)
    return MeasuredModel(path.name, 0, None, "", folder, {}, None, path.name)


def test_every_task_has_the_value_that_lm_eval_reports(logs, tmp_path):
    model = imported(logs["a0"], tmp_path / "a")
    reported = json.loads(results_of(logs["a0"]).read_text())["results"]
    found = {task: (items.metric, items.about["filter"], items.about["value"]) for task, items in model.tasks.items()}
    assert found.keys() == TASKS.keys()
    for task, (metric, name, value) in found.items():
        assert value == pytest.approx(reported[task][f"{metric},{name}"], rel=1e-9)
    assert {task: metric for task, (metric, _, _) in found.items()} == {
        "tiny_number": "acc",
        "tiny_word": "acc",
        "tiny_answer": "exact_match",
        "tiny_text": "bits_per_byte",
        "tiny_last": "acc",
    }
    assert found["tiny_answer"][1] == "first"
    assert 0 < found["tiny_number"][2] < 1  # some right, some wrong, or the test says little


def test_what_an_entry_tells(logs, tmp_path):
    about = imported(logs["a0"], tmp_path / "a").tasks["tiny_number"].about
    assert (about["backend"], about["dtype"], about["format"], about["task_version"]) == (
        "lm-eval hf",
        "fp32",
        "plain",
        "3",
    )
    assert about["chance"] == pytest.approx((1 / 2 + 1 / 3) / 2)  # two and three choices in turn
    assert about["higher_is_better"] is True and about["n"] == 20 and "lm-eval 0.4.13" in about["settings_digest"]
    text = imported(logs["a0"], tmp_path / "b").tasks["tiny_text"]
    assert text.higher_is_better is False and text.about["chance"] is None
    assert text.numbers("bytes")[0] == len("the cow big and is")


@pytest.mark.parametrize("task", ["tiny_number", "tiny_word"])
def test_the_right_choice_is_found_whether_logged_as_number_or_text(logs, tmp_path, task):
    items = imported(logs["b1"], tmp_path / "a").tasks[task]
    rows = sorted(items.rows.to_pylist(), key=lambda row: row["doc_id"])
    assert [row["gold_choice"] for row in rows] == [number % 2 for number in range(20)]
    assert [row["target"] for row in rows] == [("red", "blue")[number % 2] for number in range(20)]
    assert items.gold_margins is not None
    assert list(items.gold_margins > 0) == [score == 1 for score in items.scores]


def test_clusters_are_those_that_the_task_declares(logs, tmp_path):
    model = imported(logs["a0"], tmp_path / "a")
    clusters = model.tasks["tiny_number"].clusters
    assert clusters is not None and len(set(clusters)) == 10 and model.tasks["tiny_word"].clusters is None


def test_groups_are_lm_evals(logs, tmp_path):
    assert import_logs(logs["a0"], tmp_path / "a").groups == {"tiny_choices": ("tiny_number", "tiny_word")}


def test_a_metric_can_be_asked_for_and_tasks_without_it_keep_theirs(logs, tmp_path):
    model = imported(logs["a0"], tmp_path / "a", metric="acc_norm")
    assert {task: items.metric for task, items in model.tasks.items()}["tiny_number"] == "acc_norm"
    assert model.tasks["tiny_word"].metric == "acc" and model.tasks["tiny_number"].about["chance"] is not None
    with pytest.raises(SuiteError, match=r"no task of .* has it"):
        imported(logs["a0"], tmp_path / "b", metric="f1")


def test_a_metric_that_is_no_mean_over_items_is_refused(logs, tmp_path):
    with pytest.raises(DataError, match="task tiny_last: its items give perplexity -"):
        imported(logs["a0"], tmp_path / "a", metric="perplexity", tasks=["tiny_last"])


def test_a_metric_without_a_number_per_item_leaves_its_task_out(logs, tmp_path):
    with pytest.raises(SuiteError, match="tiny_text is left out: word_perplexity has no number for a single item"):
        import_logs(logs["a0"], tmp_path / "b", metric="word_perplexity", tasks=["tiny_text"])


REFUSED = {
    "backend": (lambda run: run["config"].update(model="vllm"), "backend differs: 'lm-eval hf' for a0"),
    "dtype": (lambda run: run["config"].update(model_dtype="torch.bfloat16"), "dtype differs: 'fp32' for a0"),
    "task version": (lambda run: run["versions"].update(tiny_number="4"), "task version differs: '3' for a0"),
    "chat template": (lambda run: run.update(chat_template_sha="abc"), "prompt format differs: 'plain' for a0"),
    "lm-eval": (lambda run: run.update(lm_eval_version="0.4.12"), "lm-eval 0.4.12"),
    "limit": (lambda run: run["config"].update(limit=20.0), "limit 20.0"),
    "shots": (lambda run: run["n-shot"].update(tiny_number=5), "shots 5"),
    "arguments": (lambda run: run["config"]["model_args"].update(add_bos_token=True), "add_bos_token True"),
    "system": (lambda run: run.update(system_instruction_sha="abc"), "system instruction abc"),
}


@pytest.mark.parametrize("change", REFUSED)
def test_runs_that_were_not_measured_alike_are_refused(logs, tmp_path, change):
    shutil.copytree(logs["b0"], tmp_path / "b0")
    alter, message = REFUSED[change]
    edit(tmp_path / "b0", alter)
    models = imported(logs["a0"], tmp_path / "x"), imported(tmp_path / "b0", tmp_path / "y")
    with pytest.raises(SuiteError) as caught:
        compare_models([models[0]], [models[1]], roles={"tiny_number": "target"})
    assert message in caught.value.what and caught.value.where == "task tiny_number"


def test_other_places_and_batches_are_no_difference_for_greedy_tasks(logs, tmp_path):
    shutil.copytree(logs["b0"], tmp_path / "b0")
    edit(
        tmp_path / "b0",
        lambda run: run["config"].update(batch_size=64, model_args={"pretrained": "x", "device": "cuda"}),
    )
    models = imported(logs["a0"], tmp_path / "x"), imported(tmp_path / "b0", tmp_path / "y")
    assert len(compare_models([models[0]], [models[1]]).rows) == 5


def test_other_prompts_are_refused(logs, tmp_path, tiny_folder):
    include = write_tasks(tmp_path / "tasks")
    path = include / "tiny_word.yaml"
    path.write_text(path.read_text().replace("doc_to_text: prompt", "doc_to_text: 'why {{prompt}}'"))
    run_lm_eval(tiny_folder, ["tiny_word"], include, tmp_path / "other")
    models = imported(logs["a0"], tmp_path / "x"), imported(tmp_path / "other", tmp_path / "y")
    with pytest.raises(SuiteError, match=r"pair to 0.0 % \(0 of 40 items; the same documents under other prompts\)"):
        compare_models([models[0]], [models[1]], roles={"tiny_word": "target"})


def test_tasks_measured_in_turn_are_one_model_and_a_task_twice_is_refused(logs, tmp_path, tiny_folder):
    include = write_tasks(tmp_path / "tasks")
    for task in ("tiny_word", "tiny_last"):
        run_lm_eval(tiny_folder, [task], include, tmp_path / "out")
    assert set(imported(tmp_path / "out", tmp_path / "x").tasks) == {"tiny_word", "tiny_last"}
    run_lm_eval(tiny_folder, ["tiny_word"], include, tmp_path / "out")
    with pytest.raises(DataError, match="holds task tiny_word twice"):
        imported(tmp_path / "out", tmp_path / "y")
    newest = sorted((tmp_path / "out").rglob("results_*.json"))[-1]
    assert set(imported(newest, tmp_path / "z").tasks) == {"tiny_word"}


def test_two_models_in_one_folder_are_refused(logs, tmp_path):
    for name in ("a0", "b0"):
        shutil.copytree(logs[name], tmp_path / "both" / name)
    with pytest.raises(DataError, match="holds results of 2 models"):
        imported(tmp_path / "both", tmp_path / "x")


def test_a_run_without_samples_is_told(logs, tmp_path):
    shutil.copytree(logs["a0"], tmp_path / "a0")
    samples_of(tmp_path / "a0", "tiny_word").unlink()
    with pytest.raises(DataError) as caught:
        imported(tmp_path / "a0", tmp_path / "x")
    assert "samples_tiny_word" in caught.value.where and "--log_samples" in caught.value.remedy


def test_samples_of_another_run_or_with_a_missing_document_are_told(logs, tmp_path):
    shutil.copytree(logs["a0"], tmp_path / "a0")
    path = samples_of(tmp_path / "a0", "tiny_word")
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match="holds 19 documents, its results file counts 20"):
        imported(tmp_path / "a0", tmp_path / "x")
    path.write_text(samples_of(logs["a0"], "tiny_number").read_text())
    with pytest.raises(DataError, match="their hashes differ"):
        imported(tmp_path / "a0", tmp_path / "x")
    path.write_text(whole.replace('"acc": 1.0', '"acc": 0.0', 1))
    with pytest.raises(DataError, match="task tiny_word: its items give acc"):
        imported(tmp_path / "a0", tmp_path / "x")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_cut_anywhere_is_told_and_nothing_else_happens(logs, tmp_path, data):
    folder = tmp_path / "cut"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(logs["a0"], folder)
    path = data.draw(
        st.sampled_from([results_of(folder), samples_of(folder, "tiny_word"), samples_of(folder, "tiny_answer")])
    )
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 2))
    path.write_bytes(whole[:cut])
    with pytest.raises(SuiteError) as caught:
        import_logs(folder, tmp_path / "x")
    assert path.name in caught.value.where and caught.value.remedy


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.just({}),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_field_with_anything_else_in_it_is_told_or_does_no_harm(logs, tmp_path, data):
    folder = tmp_path / "edited"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(logs["a0"], folder)
    path = data.draw(st.sampled_from([results_of(folder), *(samples_of(folder, task) for task in TASKS)]))
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    number = data.draw(st.integers(0, len(lines) - 1))
    document = json.loads(lines[number])
    place, key = document, data.draw(st.sampled_from(sorted(document)))
    while isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
        place, key = place[key], data.draw(st.sampled_from(sorted(place[key])))
    place[key] = data.draw(VALUES)
    lines[number] = json.dumps(document)
    path.write_text("\n".join(lines))
    try:
        model = imported(folder, tmp_path / "x")
        assert model.tasks
    except SuiteError as error:
        assert error.where and error.what


def compared(*names, json_output=True, **options):
    out = Console(file=io.StringIO(), width=120)
    store = options.pop("store")
    fields = {"tasks": [], "limit": None, "margin": 0.05} | options
    compare_two(
        *map(str, names),
        fields.pop("tasks"),
        fields.pop("limit"),
        fields.pop("margin"),
        store,
        out,
        as_json=json_output,
        **fields,
    )
    return out.file.getvalue()  # type: ignore[attr-defined]


def test_compare_answers_in_one_command_with_seeds_and_groups(logs, tmp_path, capsys):
    a, b = ",".join(str(logs[n]) for n in ("a0", "a1")), ",".join(str(logs[n]) for n in ("b0", "b1"))
    compared(a, b, store=tmp_path / "runs")
    found = json.loads(capsys.readouterr().out)
    assert (found["reference"], found["new"], found["seeds"]) == ("a", "b", [0, 1])
    rows = {row["task"]: row for row in found["comparisons"]}
    assert set(rows) == {*TASKS, "group:tiny_choices", "group:tasks"}
    models = {name: imported(logs[name], tmp_path / name) for name in logs}
    arms = [[replace(models[f"{arm}{seed}"], stage=arm, seed=seed) for seed in (0, 1)] for arm in "ab"]
    direct = compare_models(*arms)
    assert {row.task: row.delta for row in direct.rows} == pytest.approx({task: rows[task]["delta"] for task in TASKS})
    both = [row.delta for row in direct.rows if row.task in ("tiny_number", "tiny_word")]
    assert rows["group:tiny_choices"]["delta"] == pytest.approx(sum(both) / 2)
    assert rows["tiny_word"]["ci_method"] == "crossed" and rows["tiny_word"]["p_method"] == "fdr_bh"


def test_compare_says_in_words_which_does_better(logs, tmp_path):
    text = " ".join(compared(logs["a0"], logs["b0"], store=tmp_path / "runs", json_output=False).split())
    assert "b0" in text.split(".")[0] and "tiny_choices" in text and "no claim about the method" in text
    assert "old skills" not in text and "the target" not in text


def test_tasks_and_groups_can_be_picked_and_count_as_declared(logs, tmp_path, capsys):
    compared(logs["a0"], logs["b0"], store=tmp_path / "runs", tasks=["tiny_choices", "tiny_last"])
    rows = {row["task"]: row for row in json.loads(capsys.readouterr().out)["comparisons"]}
    assert {"tiny_number", "tiny_word", "tiny_last"} < set(rows) and "tiny_text" not in rows
    assert rows["tiny_last"]["p_method"] == "holm"
    with pytest.raises(RecipeError, match="was not measured on it"):
        compared(logs["a0"], logs["b0"], store=tmp_path / "runs", tasks=["lab_facts"])


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        ("a0", "model", {}, "is not evaluated yet"),
        ("a0", "b0", {"tasks": ["tiny_word"], "limit": 5}, "compared as they are"),
        ("model", "model", {"metric": "acc"}, "chooses among the metrics of lm-eval's logs"),
        ("a0", "nothing", {}, "names nothing that can be compared"),
        ("a0", "a0,model", {}, "some are models, others measurements"),
        ("a0", "a0,nothing", {}, "holds no measurements"),
    ],
)
def test_sides_that_do_not_go_together_are_refused(logs, tiny_folder, tmp_path, a, b, options, message):
    places = logs | {"model": tiny_folder, "nothing": tmp_path / "nothing"}
    names = [",".join(str(places[part]) for part in side.split(",")) for side in (a, b)]
    with pytest.raises(RecipeError, match=message):
        compared(*names, store=tmp_path / "runs", **options)
