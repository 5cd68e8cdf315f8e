import math

import pytest
from pydantic import ValidationError

from alignment.core.artifact import Artifact
from alignment.core.config import DataRef
from alignment.core.context import Context
from alignment.data.rows import load_rows, write_rows
from alignment.generation.answers import answer_text
from alignment.generation.engine import Completion
from alignment.models.load import load_tokenizer
from reward.config import PreferencesConfig
from reward.preferences import Answer, first_better, is_held_out, label_pairs, run


def test_label_noise_by_hand():
    assert first_better(0.5, 0.5, 10) == 0.5
    assert first_better(0.6, 0.4, 10) == pytest.approx(math.e**2 / (1 + math.e**2))  # 0.881
    assert first_better(0.4, 0.6, 10) == pytest.approx(1 - 0.8807970779778823)
    assert first_better(0.0, 1.0, 4) == pytest.approx(0.01798620996)
    assert first_better(0.0, 1.0, 1000) == pytest.approx(0) and first_better(1.0, 0.0, 1000) == 1


def test_labels_follow_the_noise_and_swap_answers_with_their_gold():
    rows = [{"prompt": "p"}] * 4000
    answers = [[Answer("a", 0.6, True), Answer("b", 0.4, False)]] * 4000
    pairs, dropped = label_pairs(rows, answers, slope=10, seed=1)
    share = sum(pair["chosen"] == "a" for pair in pairs) / 4000
    assert share == pytest.approx(0.8808, abs=4 * (0.8808 * 0.1192 / 4000) ** 0.5)
    flipped = next(pair for pair in pairs if pair["chosen"] == "b")
    assert (flipped["chosen_gold"], flipped["chosen_finished"]) == (0.4, False)
    assert (flipped["rejected"], flipped["rejected_gold"], flipped["rejected_finished"]) == ("a", 0.6, True)
    assert dropped == {"identical": 0, "empty": 0}
    assert label_pairs(rows, answers, 10, seed=1)[0] == pairs


def test_answers_are_compared_two_by_two_and_useless_pairs_counted():
    given = [Answer(text, gold, True) for text, gold in (("a", 1), ("b", 0), ("c", 1), ("c", 1), (" ", 1), ("d", 0))]
    pairs, dropped = label_pairs([{"prompt": "p"}], [given], slope=100, seed=0)
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [("a", "b")]
    assert dropped == {"identical": 1, "empty": 1}


def test_a_tenth_of_the_prompts_is_held_out_whatever_form_they_have():
    held = [is_held_out(f"prompt {n}", 0.1) for n in range(5000)]
    assert sum(held) / 5000 == pytest.approx(0.1, abs=0.015)
    assert held == [is_held_out([{"role": "user", "content": f"prompt {n}"}], 0.1) for n in range(5000)]


def test_text_after_a_plain_prompt_keeps_its_first_space(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder)
    prompt, answer = tokenizer("the cow")["input_ids"], tokenizer("is red <|end|>")["input_ids"]
    completion = Completion(prompt, answer, [0.0] * 3, finished=True)
    assert answer_text(tokenizer, completion, "the cow") == " is red"
    assert answer_text(tokenizer, completion, [{"role": "user", "content": "x"}]) == "is red"


def test_pairs_from_a_real_model(tiny_folder, tmp_path):
    words = ["the", "cow", "dog", "cat", "is", "was", "red", "blue", "big", "small", "good", "bad"]
    write_rows([{"prompt": f"{a} {b}"} for a in words for b in words], tmp_path / "prompts.jsonl")
    config = PreferencesConfig.model_validate(
        {
            "model": {"path": str(tiny_folder)},
            "prompts": {"path": str(tmp_path / "prompts.jsonl")},
            "gold": "vader",
            "slope": 4,
            "samples": 4,
            "pairs": 120,
            "max_new_tokens": 6,
            "engine": "hf",
            "validation_share": 0.3,
        }
    )
    inputs = {"model": Artifact("model", "d", tiny_folder)}
    summary = run(config, inputs, Context.at(tmp_path / "out"))
    made = Artifact("dataset", "d", tmp_path / "out")
    fields = ("prompt", "chosen", "rejected")
    train, held = (load_rows(DataRef(stage="pairs", split=s), made, fields) for s in ("train", "validation"))
    assert (len(train), len(held)) == (summary["train_pairs"], summary["validation_pairs"])
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in held}
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    judge = SentimentIntensityAnalyzer()
    for row in train[:20]:
        assert row["chosen"] != row["rejected"]
        assert row["chosen_gold"] == judge.polarity_scores(row["chosen"])["compound"]
    assert len({row["chosen"] for row in train}) > 20
    run(config, inputs, Context.at(tmp_path / "again"))
    assert (tmp_path / "again" / "train.jsonl").read_text() == (tmp_path / "out" / "train.jsonl").read_text()


def test_unknown_gold_scorers_are_refused_by_name():
    with pytest.raises(ValidationError, match="lab_service, vader"):
        PreferencesConfig.model_validate({"model": {"path": "m"}, "prompts": {"path": "p"}, "gold": "silver"})
