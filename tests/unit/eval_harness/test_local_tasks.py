"""Tasks made from local rows, through lm-eval on a random model: every score against one worked out from the model itself."""

import json
import math

import pytest
import torch
from test_evaluate_stage import logprob, measure

from alignment.core.config import DataRef
from alignment.core.errors import DataError
from alignment.data.rows import write_rows
from alignment.models.load import load_causal_lm, load_tokenizer
from eval.task_config import ChoicesTask, ExactTask, LastWordTask, PairsTask


@pytest.fixture(scope="module")
def reference(tiny):
    return load_causal_lm(tiny, dropout=False).eval(), load_tokenizer(tiny)


def rows_file(tmp_path, rows):
    write_rows(rows, tmp_path / "rows.jsonl")
    return DataRef(path=str(tmp_path / "rows.jsonl"))


def test_choices_are_scored_after_the_filled_prompt(tiny, reference, tmp_path):
    colours = ["red", "blue", "green"]
    rows = [{"q": f"w{i} w{i + 3}", "options": colours[: 2 + i % 2], "right": i % 2, "from": i // 4} for i in range(8)]
    task = ChoicesTask(
        metric="choices", data=rows_file(tmp_path, rows), prompt="Question: {q} Answer:", choices="options", answer="right",
        cluster="from",
    )  # fmt: skip
    summary, evaluation, items = measure(tiny, tmp_path / "out", {"mine": task}, retained=["mine"])
    hits = 0
    for row, item in zip(rows, items, strict=True):
        lls = [logprob(*reference, f"Question: {row['q']} Answer:", choice) for choice in row["options"]]
        assert item["choice_lls"] == pytest.approx(lls, abs=1e-4)
        assert (item["gold_choice"], item["cluster"]) == (row["right"], str(row["from"]))
        hits += lls.index(max(lls)) == row["right"]
    assert summary["mine"] == hits / 8
    entry = evaluation["tasks"]["mine"]
    assert (entry["metric"], entry["format"]) == ("acc", "plain")
    assert entry["chance"] == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_the_more_likely_text_of_a_pair_wins(tiny, reference, tmp_path):
    rows = [{"good": f"w{i} red w{i + 1}", "bad": f"w{i} blue w{i + 1}", "kind": "ab"[i % 2]} for i in range(10)]
    task = PairsTask(metric="pairs", data=rows_file(tmp_path, rows), cluster="kind")
    summary, evaluation, items = measure(tiny, tmp_path / "out", {"pairs": task}, retained=["pairs"])
    expected = [[logprob(*reference, "", row[side]) for side in ("good", "bad")] for row in rows]
    assert [item["choice_lls"] for item in items] == [pytest.approx(lls, abs=1e-4) for lls in expected]
    assert summary["pairs"] == sum(good > bad for good, bad in expected) / 10
    assert {item["gold_choice"] for item in items} == {0}
    assert [item["cluster"] for item in items] == ["a", "b"] * 5
    assert evaluation["tasks"]["pairs"]["chance"] == 0.5


@torch.no_grad()
def test_a_last_word_is_right_if_it_is_the_likeliest(tiny, reference, tmp_path):
    model, tokenizer = reference
    best = {}
    for word in ("w1", "w2", "w3"):
        ids = torch.tensor([tokenizer.encode(word)])
        best[word] = tokenizer.decode([int(model(ids).logits[0, -1].argmax())])
    words = [word for word, likeliest in best.items() if likeliest.strip() and " " not in likeliest.strip()]
    assert words
    rows = [{"text": f"{word} {best[word]}"} for word in words] + [{"text": f"{word} w39"} for word in words]
    task = LastWordTask(metric="last_word", data=rows_file(tmp_path, rows), text="text")
    _, evaluation, items = measure(tiny, tmp_path / "out", {"last": task}, retained=["last"])
    assert [item["score"] for item in items[: len(words)]] == [1.0] * len(words)
    assert [item["score"] for item in items[len(words) :]] == [float(best[word] == "w39") for word in words]
    assert items[0]["log_likelihood"] == pytest.approx(logprob(model, tokenizer, words[0], best[words[0]]), abs=1e-4)
    assert evaluation["tasks"]["last"]["chance"] == 0


def test_an_answer_is_right_if_it_equals_a_target_after_normalising(tiny, tmp_path):
    data = rows_file(tmp_path, [{"prompt": f"w{i}", "target": "x"} for i in range(4)])
    task = ExactTask(metric="exact_match", data=data, max_new_tokens=4)
    _, _, items = measure(tiny, tmp_path / "first", {"say": task}, target=["say"])
    assert [item["score"] for item in items] == [0.0] * 4
    said = [item["output"] for item in items]
    assert all(answer.strip() for answer in said)
    rows = [{"prompt": f"w{i}", "target": ["x", f" {answer.upper()}"]} for i, answer in enumerate(said)]
    rows[3]["target"] = "y"
    task = task.model_copy(update={"data": rows_file(tmp_path, rows), "ignore_case": True})
    summary, evaluation, items = measure(tiny, tmp_path / "second", {"say": task}, target=["say"])
    assert [item["score"] for item in items] == [1.0, 1.0, 1.0, 0.0]
    assert summary["say"] == 0.75
    assert evaluation["tasks"]["say"]["sampled"] is False


def test_how_answers_are_scored_is_part_of_the_settings(tiny, tmp_path):
    data = rows_file(tmp_path, [{"question": "w1", "choices": ["red", "blue"], "answer": 0}])
    task = ChoicesTask(metric="choices", data=data)

    def digest(name, **changes):
        _, evaluation, _ = measure(tiny, tmp_path / name, {"t": task.model_copy(update=changes)}, retained=["t"])
        return evaluation["tasks"]["t"]["settings_digest"]

    first = digest("first")
    assert digest("again") == first
    assert digest("delimiter", delimiter=" : ") != first
    assert digest("limit", limit=1) == first  # seen in the data digest


def test_a_sampling_task_may_answer_several_times(tiny, tmp_path):
    data = rows_file(tmp_path, [{"prompt": f"w{i}", "target": "red"} for i in range(5)])
    task = ExactTask(metric="exact_match", data=data, max_new_tokens=3, temperature=1.0, samples=4)
    _, evaluation, items = measure(tiny, tmp_path / "four", {"say": task}, target=["say"])
    tokenizer = load_tokenizer(tiny)
    for item in items:
        assert len(item["samples"]) == 4
        assert item["output"] == item["samples"][0]
        assert item["score"] == sum(" ".join(text.split()) == "red" for text in item["samples"]) / 4
        lengths = [len(tokenizer.encode(text, add_special_tokens=False)) for text in item["samples"]]
        assert item["length"] == round(sum(lengths) / 4)
    assert len({text for item in items for text in item["samples"]}) > 10, "the answers differ"
    assert evaluation["tasks"]["say"]["samples"] == 4
    once = task.model_copy(update={"samples": 1})
    _, single, items = measure(tiny, tmp_path / "one", {"say": once}, target=["say"])
    assert {item["samples"] for item in items} == {None}
    assert single["tasks"]["say"]["settings_digest"] != evaluation["tasks"]["say"]["settings_digest"]
    _, everywhere, _ = measure(tiny, tmp_path / "block", {"say": once}, target=["say"], samples=4)
    assert everywhere["tasks"]["say"]["samples"] == 4


def test_a_cluster_that_the_documents_do_not_have_is_refused(tiny, tmp_path):
    from test_evaluate_stage import write_task

    rows = [{"question": "w1", "choices": ["yes", "no"], "label": 0, "a": 1, "b": "x"}]
    config = {
        "output_type": "multiple_choice",
        "doc_to_text": "question",
        "doc_to_choice": "choices",
        "doc_to_target": "label",
    }
    metrics = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    path = write_task(tmp_path, "both", rows, metric_list=metrics, metadata={"cluster": ["a", "b"]}, **config)
    _, _, items = measure(tiny, tmp_path / "out", retained=[path])
    assert items[0]["cluster"] == "1/x"
    path = write_task(tmp_path, "none", rows, metric_list=metrics, metadata={"cluster": "source"}, **config)
    with pytest.raises(DataError, match="'none' is clustered by 'source', which its documents do not have"):
        measure(tiny, tmp_path / "out", retained=[path])


def test_programs_run_only_with_leave(tiny, tmp_path, monkeypatch):
    """A task as HumanEval is: lm-eval refuses it without leave, and its metric is named pass@1 only when it has run."""
    from alignment.core.errors import RecipeError

    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "rows.json").write_text(json.dumps([{"prompt": "w1", "test": "pass"}, {"prompt": "w2", "test": "1 / 0"}]))
    (folder / "world.py").write_text(
        "import datasets, json, pathlib\n"
        "def load(**_):\n"
        "    rows = json.loads((pathlib.Path(__file__).parent / 'rows.json').read_text())\n"
        "    return {'test': datasets.Dataset.from_list(rows)}\n"
        "def programs(resps, docs):\n"
        "    return [['answer = ' + repr(r) + '\\n' for r in resp] for resp in resps]\n"
        "def pass_at_k(references, predictions, k):\n"
        "    try:\n"
        "        exec(predictions[0][0] + references[0])\n"
        "    except ZeroDivisionError:\n"
        "        return {'pass@1': 0.0}\n"
        "    return {'pass@1': 1.0}\n"
    )
    (folder / "task.yaml").write_text(
        "task: programs\ncustom_dataset: !function world.load\nunsafe_code: true\noutput_type: generate_until\n"
        "test_split: test\ndoc_to_text: prompt\ndoc_to_target: test\n"
        "generation_kwargs: {until: [], do_sample: false, max_gen_toks: 3}\n"
        "metric_list: [{metric: !function world.pass_at_k, aggregation: mean, higher_is_better: true, k: [1]}]\n"
        "filter_list: [{name: create_test, filter: [{function: custom, filter_fn: !function world.programs}]}]\n"
    )
    path = str(folder / "task.yaml")
    with pytest.raises(RecipeError, match="programs: runs programs that the model writes"):
        measure(tiny, tmp_path / "out", retained=[path])
    summary, evaluation, items = measure(tiny, tmp_path / "out", retained=[path], run_generated_code=True)
    assert summary["programs"] == 0.5
    assert evaluation["tasks"]["programs"]["metric"] == "pass@1"
    assert [item["score"] for item in items] == [1.0, 0.0]
    assert items[0]["output"].startswith("answer = ")


def test_scores_of_a_task_s_own_leave_no_single_right_choice(tiny, tmp_path):
    """As in TruthfulQA mc2: the probability of all true answers together. No gold margin, no calibration, no chance."""
    folder = tmp_path / "truth"
    folder.mkdir()
    rows = [{"q": "w1", "choices": ["red", "blue", "green"], "labels": [1, 1, 0]}]
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "world.py").write_text(
        "import datasets, json, math, pathlib\n"
        "def load(**_):\n"
        "    rows = json.loads((pathlib.Path(__file__).parent / 'rows.json').read_text())\n"
        "    return {'test': datasets.Dataset.from_list(rows)}\n"
        "def mass(doc, results):\n"
        "    p = [math.exp(ll) for ll, _ in results]\n"
        "    return {'acc': sum(x for x, label in zip(p, doc['labels']) if label) / sum(p)}\n"
    )
    (folder / "task.yaml").write_text(
        "task: truth\ncustom_dataset: !function world.load\noutput_type: multiple_choice\ntest_split: test\n"
        "doc_to_text: q\ndoc_to_choice: choices\ndoc_to_target: 0\nprocess_results: !function world.mass\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    _, evaluation, items = measure(tiny, tmp_path / "out", retained=[str(folder / "task.yaml")])
    masses = [math.exp(ll) for ll in items[0]["choice_lls"]]
    assert items[0]["score"] == pytest.approx(sum(masses[:2]) / sum(masses))
    assert items[0]["gold_choice"] is None
    assert evaluation["tasks"]["truth"]["chance"] is None


def test_choices_before_a_shared_ending_have_their_gold_and_their_margin(tiny, reference, tmp_path):
    """As in WinoGrande: the choices stand in the prompt, the continuation is shared, `doc_to_text` is the right one's place."""
    folder = tmp_path / "wino"
    folder.mkdir()
    rows = [{"a": "w1 red", "b": "w1 blue", "end": "w2 w3", "right": i} for i in (1, 0)]
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "world.py").write_text(
        "import datasets, json, pathlib\n"
        "def load(**_):\n"
        "    rows = json.loads((pathlib.Path(__file__).parent / 'rows.json').read_text())\n"
        "    return {'test': datasets.Dataset.from_list(rows)}\n"
        "def text(doc):\n    return doc['right']\n"
        "def choice(doc):\n    return [doc['a'], doc['b']]\n"
        "def target(doc):\n    return doc['end']\n"
    )
    (folder / "task.yaml").write_text(
        "task: wino\ncustom_dataset: !function world.load\noutput_type: multiple_choice\ntest_split: test\n"
        "doc_to_text: !function world.text\ndoc_to_choice: !function world.choice\ndoc_to_target: !function world.target\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    _, _, items = measure(tiny, tmp_path / "out", retained=[str(folder / "task.yaml")])
    lls = [logprob(*reference, row, "w2 w3") for row in ("w1 red", "w1 blue")]
    assert [item["gold_choice"] for item in items] == [1, 0]
    assert items[0]["choice_lls"] == pytest.approx(lls, abs=1e-4)
    assert items[0]["score"] + items[1]["score"] == 1.0
    assert items[0]["target"] == "w1 blue"
