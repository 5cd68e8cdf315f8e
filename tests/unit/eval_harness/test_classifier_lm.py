"""A classifier and a language model on the same task of labels: each by its own way, on items that pair."""

import pytest
from small_models import save_small
from test_evaluate_stage import choice_task, logprob, measure

from alignment.core.config import DataRef
from alignment.core.errors import DataError, ModelError, RecipeError
from alignment.data.rows import write_rows
from alignment.models.classifier import encode_texts, label_logprobs, new_classifier
from alignment.models.load import load_causal_lm, load_tokenizer, save_model
from eval.compare import compare_models
from eval.results import MeasuredModel
from eval.task_config import LabelsTask

LABELS = ["yes", "no"]
ROWS = [{"q": f"w{i} w{i + 3}", "right": i % 2} for i in range(8)]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """An untrained DistilBERT whose head has the labels in another order than the task; it reads 12 tokens."""
    words = [*[f"w{i}" for i in range(40)], "yes", "no"]
    folder = save_small("distilbert", tmp_path_factory.mktemp("bert"), words, context=12)
    made = tmp_path_factory.mktemp("classifier")
    save_model(new_classifier(folder, ["no", "yes"]), load_tokenizer(folder, generates=False), made)
    return made


def task(tmp_path, rows=ROWS, **changes):
    write_rows(rows, tmp_path / "rows.jsonl")
    given = {"data": DataRef(path=str(tmp_path / "rows.jsonl")), "prompt": "Question: {q} Answer:", "text": "{q}"}
    return LabelsTask.model_validate({"metric": "labels", "labels": LABELS, "answer": "right"} | given | changes)


def test_the_head_answers_for_the_text_and_pairs_with_a_language_model(tiny, classifier, tmp_path):
    tasks = {"mine": task(tmp_path)}
    _, head, by_head = measure(classifier, tmp_path / "head", tasks, target=["mine"])
    _, words, by_words = measure(tiny, tmp_path / "words", tasks, target=["mine"])
    model, tokenizer = load_causal_lm(tiny, dropout=False).eval(), load_tokenizer(tiny)
    reader, its_tokenizer = new_classifier(classifier, ["no", "yes"]), load_tokenizer(classifier, generates=False)
    for row, one, other in zip(ROWS, by_head, by_words, strict=True):
        ids = encode_texts(its_tokenizer, [row["q"]], 12, "error", "x")
        expected = label_logprobs(reader, ids, its_tokenizer.pad_token_id)[0].tolist()[::-1]
        assert one["choice_lls"] == pytest.approx(expected, abs=1e-5)
        assert one["output"] == LABELS[expected.index(max(expected))]
        prompt = f"Question: {row['q']} Answer:"
        assert other["choice_lls"] == pytest.approx(
            [logprob(model, tokenizer, prompt, label) for label in LABELS], abs=1e-4
        )
        for key in ("doc_hash", "prompt_hash", "target_hash", "target", "gold_choice", "prompt"):
            assert one[key] == other[key]
    assert head["tasks"]["mine"]["labels"] == words["tasks"]["mine"]["labels"] == LABELS
    assert head["tasks"]["mine"]["chance"] == 0.5
    assert head["settings"]["context_length"] != words["settings"]["context_length"]
    arms = [[MeasuredModel(name, 0, None, "", tmp_path / name, {}, None, name)] for name in ("words", "head")]
    row = compare_models(*arms).rows[0]
    scores = [sum(item["score"] for item in items) / 8 for items in (by_words, by_head)]
    assert (row.task, row.n, row.delta) == ("mine", 8, scores[1] - scores[0])


def test_texts_beyond_the_context_are_cut_and_counted(classifier, tmp_path):
    rows = [{"q": "w1 " * 10, "right": 0}, {"q": "w1 " * 11, "right": 0}]
    _, evaluation, items = measure(classifier, tmp_path / "out", {"mine": task(tmp_path, rows)}, target=["mine"])
    assert [item["truncated"] for item in items] == [False, True]
    assert evaluation["tasks"]["mine"]["truncated"] == 1


def test_a_classifier_is_refused_where_its_head_cannot_answer(classifier, tmp_path):
    with pytest.raises(RecipeError, match="is a classifier, which cannot be measured on this task"):
        measure(classifier, tmp_path / "out", target=[choice_task(tmp_path)])
    with pytest.raises(RecipeError, match="the task does not say what it reads"):
        measure(classifier, tmp_path / "out", {"mine": task(tmp_path, text=None)}, target=["mine"])
    with pytest.raises(RecipeError, match="cannot be asked in the chat format"):
        measure(classifier, tmp_path / "out", {"mine": task(tmp_path)}, target=["mine@chat"])
    with pytest.raises(ModelError, match="its labels are no, yes, those of task 'mine' good, bad"):
        measure(classifier, tmp_path / "out", {"mine": task(tmp_path, labels=["good", "bad"])}, target=["mine"])


def test_labels_that_rows_do_not_name_are_told(classifier, tmp_path):
    with pytest.raises(DataError, match=r"line 2: 'right' is 2, which names none of the 2 choices"):
        rows = [ROWS[0], {"q": "w1", "right": 2}]
        measure(classifier, tmp_path / "out", {"mine": task(tmp_path, rows)}, target=["mine"])
    with pytest.raises(ValueError, match="each label once"):
        task(tmp_path, labels=["yes", "yes"])
