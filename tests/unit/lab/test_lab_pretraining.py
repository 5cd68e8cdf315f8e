"""Pre-training: packing that does not leak, a weighted loss by hand, a killed run that ends like one that was not."""

import math
from itertools import islice

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment.core.context import Context
from alignment.lab import stage
from alignment.lab.config import PretrainConfig
from alignment.lab.corpus import Document, documents
from alignment.lab.packing import Encoded, collate, encode, pack
from alignment.lab.tokenizer import make_tokenizer

TINY = PretrainConfig(hidden_size=64, layers=1, steps=6, batch_tokens=256, checkpoint_every=2)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def test_documents_are_encoded_as_prompt_answer_and_end(tokenizer):
    (encoded,) = encode(iter([Document("Question: What is 2 + 9? Answer:", "11.")]), tokenizer)
    assert tokenizer.decode(encoded.ids) == "Question: What is 2 + 9? Answer: 11.<|end|>".replace("<", " <", 1)
    assert tokenizer.decode(encoded.ids[: encoded.prompt_length]) == "Question: What is 2 + 9? Answer:"


def test_first_fit_packing_by_hand():
    sequences = [Encoded([1] * length, 1) for length in (40, 30, 20, 30, 50)]
    first, *_ = pack(iter([*sequences, Encoded([1] * 60, 1)]), rows=2)
    # 40 opens row 0, 30 does not fit beside it and opens row 1, 20 fits row 0, 30 fits row 1, 50 fits nowhere
    assert [[len(s.ids) for s in row] for row in first] == [[40, 20], [30, 30]]


def test_collated_weights_and_positions_by_hand():
    batch = collate([[Encoded([5, 6, 7, 8], 2), Encoded([9, 4], 1)]], pad_id=0)
    assert batch.input_ids[0, :7].tolist() == [5, 6, 7, 8, 9, 4, 0]
    assert batch.positions[0, :7].tolist() == [0, 1, 2, 3, 0, 1, 0]
    assert batch.weights[0, :7].tolist() == pytest.approx([0, 0.2, 1, 1, 0, 1, 0])
    assert batch.visible[0, 0, 5, :7].tolist() == [False, False, False, False, True, True, False]


def test_a_packed_document_is_predicted_as_if_it_stood_alone(tokenizer):
    model = stage.make_model(TINY, tokenizer, seed=0)
    sequences = list(islice(encode(islice(documents("train", 0), 20), tokenizer), 6))
    row = next(pack(iter([*sequences, Encoded([1] * 64, 1)]), rows=2))[0]
    batch = collate([row], tokenizer.pad_token_id)
    arguments = {"attention_mask": batch.visible, "position_ids": batch.positions, "use_cache": False}
    packed = model(input_ids=batch.input_ids, **arguments).logits[0]
    start = 0
    for sequence in row:
        alone = model(input_ids=torch.tensor([sequence.ids])).logits[0]
        torch.testing.assert_close(packed[start : start + len(alone)], alone, atol=1e-4, rtol=1e-4)
        start += len(alone)
    assert len(row) > 1


def test_the_loss_weighs_prompt_and_answer(tokenizer):
    model = stage.make_model(TINY, tokenizer, seed=0)
    sequence = Encoded([5, 6, 7, 8], 2)
    logprobs = model(input_ids=torch.tensor([sequence.ids])).logits[0].log_softmax(-1)
    terms = [-logprobs[t - 1, sequence.ids[t]].item() for t in (1, 2, 3)]
    expected = (0.2 * terms[0] + terms[1] + terms[2]) / 2.2
    loss = stage.weighted_loss(model, collate([[sequence]], pad_id=0)).item()
    assert loss == pytest.approx(expected, rel=0.02)  # bf16 autocast


def test_learning_rate_by_hand():
    rates = [stage.learning_rate(step, 100, 1.0) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[4] == 1.0 == max(rates)
    assert rates[99] == pytest.approx(1 / 95)


def test_a_fresh_model_predicts_no_better_than_chance_and_training_lowers_the_loss(tokenizer, tmp_path):
    summary = stage.run(TINY.model_copy(update={"steps": 60, "learning_rate": 5e-3}), {}, Context.at(tmp_path))
    assert summary["train_loss"] < math.log(len(tokenizer)) - 2
    model, saved = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert saved.chat_template == tokenizer.chat_template
    assert (saved.pad_token, saved.eos_token) == ("<pad>", "<|end|>")
    assert model.generation_config.eos_token_id == saved.eos_token_id
    assert saved.decode(saved("What is 24 + 9?")["input_ids"]) == "What is 24 + 9?"
    assert summary["parameters"] == sum(p.numel() for p in model.parameters())


class Killed(Exception):
    pass


def test_a_killed_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, monkeypatch):
    whole = stage.run(TINY, {}, Context.at(tmp_path / "whole"))

    calls, weighted_loss = [], stage.weighted_loss

    def killing(model, batch):
        calls.append(1)
        if len(calls) == 6:  # after the checkpoint of step 4, within step 6
            raise Killed
        return weighted_loss(model, batch)

    monkeypatch.setattr(stage, "weighted_loss", killing)
    with pytest.raises(Killed):
        stage.run(TINY, {}, Context.at(tmp_path / "cut"))
    resumed = stage.run(TINY, {}, Context.at(tmp_path / "cut"))

    assert len(calls) == 6 + 2, "the resumed run starts after step 4"
    assert resumed == whole
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "cut")]
    assert weights[0] == weights[1]


def test_seeds_make_different_models(tmp_path):
    for seed in (0, 1):
        stage.run(TINY.model_copy(update={"steps": 2}), {}, Context.at(tmp_path / str(seed), seed=seed))
    weights = [(tmp_path / str(seed) / "model.safetensors").read_bytes() for seed in (0, 1)]
    assert weights[0] != weights[1]


def test_shapes_that_vllm_or_packing_cannot_take_are_refused():
    with pytest.raises(ValidationError, match="multiple of the head size"):
        PretrainConfig(hidden_size=100)
    with pytest.raises(ValidationError, match="multiple of the row length"):
        PretrainConfig(batch_tokens=100)
