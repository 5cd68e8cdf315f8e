"""DPO and KTO: rows and batches by hand, the losses at the start by their formulas, and that training does what the labels say."""

import json
import math

import pytest
import torch
from pydantic import ValidationError

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.core.errors import DataError
from alignment.data.rows import write_rows
from alignment.models.encoding import encode_answer
from alignment.models.load import load_causal_lm, load_to_read, load_tokenizer
from alignment.preference.config import DPOConfig, KTOConfig
from alignment.preference.rows import collate_answers, collate_pairs, encoded_answers
from alignment.preference.stage import run_dpo, run_kto

PAIRS = [
    {"prompt": "the cow", "chosen": " is red", "rejected": " was"},
    {"prompt": "why the dog", "chosen": " eats", "rejected": " sleeps and runs"},
    {"prompt": "the cat", "chosen": " is good", "rejected": " is bad"},
    {"prompt": "who runs", "chosen": " the dog", "rejected": " the cow"},
]


def row(ids, prompt, side):
    return {f"{side}_ids": ids, f"{side}_mask": [False] * prompt + [True] * (len(ids) - prompt)}


def test_a_batch_of_pairs_has_the_chosen_first_and_is_padded_on_the_right():
    rows = [row([1, 2, 3, 4, 5], 3, "chosen") | row([1, 2, 3, 6], 3, "rejected")]
    rows += [row([7, 8, 9], 2, "chosen") | row([7, 8, 10, 11], 2, "rejected")]
    batch = collate_pairs(rows, pad=0)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5], [7, 8, 9, 0, 0], [1, 2, 3, 6, 0], [7, 8, 10, 11, 0]]
    assert batch["completion_mask"].tolist() == [[0, 0, 0, 1, 1], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 1, 1, 0]]
    assert batch["attention_mask"].sum(1).tolist() == [5, 3, 4, 4]


def test_for_the_estimate_of_the_kl_each_prompt_gets_the_answer_to_another():
    rows = [row([1, 2, 3], 2, "answer") | {"label": True}, row([4, 5, 6], 1, "answer") | {"label": False}]
    batch = collate_answers(rows, pad=0)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert batch["KL_input_ids"].tolist() == [[1, 2, 5, 6], [4, 3, 0, 0]]
    assert batch["KL_completion_mask"].tolist() == [[0, 0, 1, 1], [0, 1, 0, 0]]
    assert batch["label"].tolist() == [True, False]


def test_a_pair_makes_a_good_and_a_bad_answer_and_labels_are_checked(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder)
    table = encoded_answers(tokenizer, PAIRS[:1], 64, "data")
    assert [one["label"] for one in table] == [True, False]
    with pytest.raises(DataError, match="row 2: label is 'yes'"):
        rows = [{"prompt": "the", "completion": " cow", "label": label} for label in (True, "yes")]
        encoded_answers(tokenizer, rows, 64, "data")
    with pytest.raises(DataError, match="all 2 answers are good"):
        encoded_answers(tokenizer, [{"prompt": "the", "completion": " cow", "label": True}] * 2, 64, "data")


@pytest.fixture
def data(tmp_path):
    write_rows(PAIRS, tmp_path / "pairs.jsonl")
    return {"path": str(tmp_path / "pairs.jsonl")}


def run(kind, tiny_folder, data, folder, **settings):
    make, stage = {"dpo": (DPOConfig, run_dpo), "kto": (KTOConfig, run_kto)}[kind]
    base = {"model": {"path": str(tiny_folder)}, "data": data, "batch_size": 4, "steps": 1, "warmup": 0}
    config = make.model_validate(base | settings)
    return stage(config, {"model": Artifact("model", "digest", tiny_folder)}, Context.at(folder))


def logprob(model, tokenizer, prompt, answer):
    """Sum over the answer's tokens, one row at a time without padding."""
    encoded = encode_answer(tokenizer, prompt, answer)
    with torch.no_grad():
        numbers = model(torch.tensor([encoded.ids])).logits[0].log_softmax(-1)
    return sum(
        numbers[place - 1, token].item() for place, token in enumerate(encoded.ids) if place and encoded.mask[place]
    )


def test_the_first_dpo_loss_is_log_two_and_sft_beside_it_adds_the_chosen_answers_loss(tiny_folder, data, tmp_path):
    still = {"learning_rate": 1e-12}
    assert run("dpo", tiny_folder, data, tmp_path / "a", **still)["train_loss"] == pytest.approx(math.log(2), abs=1e-5)
    model, tokenizer = load_causal_lm(tiny_folder).eval(), load_tokenizer(tiny_folder)
    numbers = [logprob(model, tokenizer, pair["prompt"], pair["chosen"]) for pair in PAIRS]
    tokens = sum(sum(encode_answer(tokenizer, pair["prompt"], pair["chosen"]).mask) for pair in PAIRS)
    both = run("dpo", tiny_folder, data, tmp_path / "b", loss={"sigmoid": 1.0, "sft": 0.5}, **still)["train_loss"]
    assert both == pytest.approx(math.log(2) - 0.5 * sum(numbers) / tokens, abs=1e-4)


@pytest.mark.parametrize("peft", [None, {"r": 4}])
@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_training_prefers_what_was_chosen_over_what_the_start_preferred(tiny_folder, data, tmp_path, kind, peft):
    summary = run(
        kind, tiny_folder, data, tmp_path, steps=30, learning_rate=1e-2 if peft else 1e-3, peft=peft, validation=None
    )
    before, after = (load_causal_lm(folder).eval() for folder in (tiny_folder, tmp_path))
    tokenizer = load_tokenizer(tiny_folder)

    def margin(model, pair):
        return logprob(model, tokenizer, pair["prompt"], pair["chosen"]) - logprob(
            model, tokenizer, pair["prompt"], pair["rejected"]
        )

    assert all(margin(after, pair) > margin(before, pair) + 0.5 for pair in PAIRS)
    assert summary["steps"] == 30 and summary["train_tokens"] > 0


@pytest.mark.parametrize("peft", [{"method": "prompt", "virtual_tokens": 4}, {"method": "bottleneck", "width": 8}])
@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_adapters_that_cannot_be_merged_are_held_against_the_start_without_them(
    tiny_folder, data, tmp_path, kind, peft
):
    run(kind, tiny_folder, data, tmp_path, steps=30, learning_rate=1e-2, peft=peft)
    before, after, tokenizer = load_to_read(tiny_folder), load_to_read(tmp_path), load_tokenizer(tiny_folder)
    gains = [
        sum(
            sign
            * (
                logprob(after, tokenizer, pair["prompt"], pair[side])
                - logprob(before, tokenizer, pair["prompt"], pair[side])
            )
            for sign, side in ((1, "chosen"), (-1, "rejected"))
        )
        for pair in PAIRS
    ]
    assert min(gains) > 0.5
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    if (
        peft["method"] == "bottleneck"
    ):  # a fresh one changes nothing, so the first step finds policy and reference equal
        assert logged[0]["train/loss"] == pytest.approx(math.log(2) if kind == "dpo" else 0.5, abs=1e-3)


def test_a_reference_other_than_the_start_changes_the_loss(tiny_folder, data, tmp_path):
    run("dpo", tiny_folder, data, tmp_path / "tuned", steps=20, learning_rate=1e-3)
    start, reference = (load_causal_lm(folder).eval() for folder in (tiny_folder, tmp_path / "tuned"))
    tokenizer = load_tokenizer(tiny_folder)

    def advantage(pair, side):
        return logprob(start, tokenizer, pair["prompt"], pair[side]) - logprob(
            reference, tokenizer, pair["prompt"], pair[side]
        )

    margins = torch.tensor([0.1 * (advantage(pair, "chosen") - advantage(pair, "rejected")) for pair in PAIRS])
    expected = -torch.nn.functional.logsigmoid(margins).mean().item()
    base = {"model": {"path": str(tiny_folder)}, "reference": {"path": str(tmp_path / "tuned")}, "data": data}
    config = DPOConfig.model_validate(base | {"batch_size": 4, "steps": 1, "warmup": 0, "learning_rate": 1e-12})
    inputs = {"model": Artifact("model", "m", tiny_folder), "reference": Artifact("model", "r", tmp_path / "tuned")}
    loss = run_dpo(config, inputs, Context.at(tmp_path / "out"))["train_loss"]
    assert loss == pytest.approx(expected, abs=1e-5) and loss > math.log(2) + 0.01


def test_lengths_and_losses_are_checked_with_the_recipe(tiny_folder, data):
    base = {"model": {"path": str(tiny_folder)}, "data": data}
    for wrong, message in [
        ({}, "exactly one of steps, epochs"),
        ({"steps": 1, "loss": {"sigmoyd": 1.0}}, "Input should be 'sigmoid'"),
        ({"steps": 1, "loss": {}}, "at least one loss"),
        ({"steps": 1, "quantization": {"bits": 4}}, "add a peft block"),
    ]:
        with pytest.raises(ValidationError, match=message):
            DPOConfig.model_validate(base | wrong)
