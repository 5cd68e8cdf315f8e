"""Encoder-decoders: the loss by hand, what is trained, what is measured."""

import json

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from small_models import save_small

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.core.errors import DataError, ModelError
from alignment.data.rows import write_rows
from alignment.models.config import FreezeConfig
from alignment.models.load import load_tokenizer
from alignment.models.seq2seq import collate, greedy_answers, load_seq2seq
from alignment.seq2seq.config import Seq2SeqConfig
from alignment.seq2seq.figures import answer_figures
from alignment.seq2seq.stage import mean_token_loss, run

WORDS = ["say", "the", "cow", "dog", "cat", "is", "red", "blue", "big", "runs", "and", "why", ":"]
NOUNS, COLOURS = WORDS[2:5], {"cow": "red", "dog": "blue", "cat": "big"}


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    return save_small("t5", tmp_path_factory.mktemp("small") / "t5", WORDS)


def rows(count=36):
    """`say : cow runs` is answered `cow red`: each animal has its colour, whatever stands after it."""
    pairs = [(noun, word) for noun in NOUNS for word in WORDS[:12]]
    return [{"prompt": f"say : {noun} {word}", "completion": f"{noun} {COLOURS[noun]}"} for noun, word in pairs][:count]


def seq2seq(folder, out, data=None, seed=0, **settings):
    out.mkdir(parents=True, exist_ok=True)
    write_rows(data or rows(), out / "train.jsonl")
    write_rows((data or rows())[::3], out / "held_out.jsonl")
    base = {"model": {"path": "m"}, "data": {"path": str(out / "train.jsonl")}, "warmup": 0}
    base |= {"validation": {"path": str(out / "held_out.jsonl")}, "batch_size": 12, "max_new_tokens": 8}
    config = Seq2SeqConfig.model_validate(base | settings)
    return run(config, {"model": Artifact("model", "m", folder)}, Context.at(out / "out", seed))


def answer_loss(model, tokenizer, data):
    """Mean -log p of the answers' tokens with their ends, one row at a time and token by token: the reference."""
    total, count = 0.0, 0
    for row in data:
        prompt = torch.tensor([tokenizer(row["prompt"])["input_ids"]])
        answer = tokenizer(row["completion"])["input_ids"]
        said = [tokenizer.pad_token_id]  # T5 begins with the pad
        for token in answer:
            with torch.no_grad():
                logits = model(input_ids=prompt, decoder_input_ids=torch.tensor([said])).logits[0, -1]
            total, count, said = total - logits.log_softmax(-1)[token].item(), count + 1, [*said, token]
    return total / count, count


def test_the_loss_is_that_of_the_answers_with_their_ends_whatever_the_batch(t5, tmp_path):
    data = [*rows(5), {"prompt": "why", "completion": "the big cat runs"}]
    expected, count = answer_loss(load_seq2seq(t5).eval(), load_tokenizer(t5), data)
    assert count == 5 * 3 + 5
    summary = seq2seq(t5, tmp_path, data=data, steps=1, learning_rate=1e-12, batch_size=6)
    assert summary["train_tokens"] == count
    held_out, _ = answer_loss(load_seq2seq(t5).eval(), load_tokenizer(t5), data[::3])
    assert summary["validation_loss"] == pytest.approx(held_out, abs=1e-5)
    model = load_seq2seq(t5).eval()  # the training loss has dropout on; without it, by the same function:
    tokenizer = load_tokenizer(t5)
    columns = ([tokenizer(row[key])["input_ids"] for row in data] for key in ("prompt", "completion"))
    batch = collate(model, *columns, tokenizer.pad_token_id)
    labels = batch.pop("labels")
    assert batch["decoder_input_ids"][:, 0].tolist() == [tokenizer.pad_token_id] * 6
    with torch.no_grad():
        loss = mean_token_loss(model(**batch), labels)
    assert loss.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("peft", [None, {"r": 8, "target_modules": ["q", "v"]}], ids=["full", "lora"])
def test_it_learns_the_answers_and_leaves_a_plain_folder(t5, tmp_path, peft):
    rate = 1e-2 if peft is None else 3e-2
    summary = seq2seq(t5, tmp_path, peft=peft, checkpoint_every=1000, steps=60, learning_rate=rate)
    assert (summary["trainable_parameters"] < summary["parameters"] / 3) == (peft is not None)
    assert summary["estimated_memory_mib"] > sum(summary["memory_parts_mib"][name] for name in ("weights", "libraries"))
    model, tokenizer = load_seq2seq(tmp_path / "out"), load_tokenizer(tmp_path / "out")
    assert answer_loss(model.eval(), tokenizer, rows()[::3])[0] == pytest.approx(summary["validation_loss"], abs=1e-4)
    shown = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert [row["target"] for row in shown] == [row["completion"] for row in rows()[::3]]
    prompts = [tokenizer(row["prompt"])["input_ids"] for row in rows()[::3]]
    assert greedy_answers(model, tokenizer, prompts, 8, 5) == [row["answer"] for row in shown]
    hits = sum(row["answer"] == row["target"] for row in shown) / len(shown)
    assert summary["validation_exact_match"] == hits
    assert hits > 0.6 and summary["validation_rouge1"] > 0.6


def test_exact_match_and_rouge_by_hand():
    figures = answer_figures(["the cat sat", " yes "], ["the cat runs", "yes"])
    assert figures["exact_match"] == 1 / 2
    assert figures["rouge1"] == pytest.approx((2 / 3 + 1) / 2)
    assert figures["rouge2"] == pytest.approx((1 / 2 + 0) / 2)  # a single word has no pair
    assert figures["rougeL"] == pytest.approx((2 / 3 + 1) / 2)


def test_accumulated_batches_are_one_step_on_all_their_tokens(t5, tmp_path):
    data = [{"prompt": "why", "completion": " ".join(["cow"] * n)} for n in (1, 9, 2, 3)]
    settings = {"data": data, "steps": 2, "group_by_length": False, "learning_rate": 1e-3}
    whole = seq2seq(t5, tmp_path / "whole", **settings, batch_size=4)
    parts = seq2seq(t5, tmp_path / "parts", **settings, batch_size=1, gradient_accumulation=4)
    assert parts["train_tokens"] == whole["train_tokens"] == 2 * (1 + 9 + 2 + 3 + 4)


def test_frozen_layers_of_t5_are_its_blocks(t5):
    model = load_seq2seq(t5, freeze=FreezeConfig(layers=1))
    still = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert all(".block.0." in name or "shared" in name or "embed" in name for name in still)
    assert any("decoder.block.0.layer.2" in name for name in still)


def test_language_models_tasks_are_refused_along_training():
    with pytest.raises(ValidationError, match="its tasks are for language models"):
        Seq2SeqConfig.model_validate(
            {"model": {"path": "m"}, "data": {"path": "d"}, "steps": 9, "evaluate": {"every": 2}}
        )


def test_rows_that_do_not_fit_are_refused(t5, tiny_folder, tmp_path):
    with pytest.raises(ModelError, match="is no encoder-decoder"):
        load_seq2seq(tiny_folder)
    chat = [{"prompt": [{"role": "user", "content": "why"}], "completion": "the"}]
    with pytest.raises(DataError, match="row 1: chat messages"):
        seq2seq(t5, tmp_path, data=[*chat, rows(1)[0]], steps=1)
    long = [{"prompt": "cow " * 20, "completion": "dog " * 20}]
    with pytest.raises(DataError, match="data, prompt: row 1: longer than 10"):
        seq2seq(t5, tmp_path, data=long, steps=1, max_length=10, max_answer_length=30)
    settings = {"steps": 1, "max_length": 10, "max_answer_length": 6, "on_long": "truncate"}
    assert seq2seq(t5, tmp_path, data=long, **settings)["train_tokens"] == 6  # cut, so without an end


def test_the_same_run_gives_the_same_weights(t5, tmp_path):
    for name in ("one", "other"):
        seq2seq(t5, tmp_path / name, steps=3, seed=5, peft={"r": 4, "dropout": 0.1, "target_modules": ["q", "v"]})
    one, other = (load_file(tmp_path / name / "out" / "model.safetensors") for name in ("one", "other"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_frozen_layers_have_the_shared_embeddings_below_them(tmp_path):
    model = load_seq2seq(save_small("t5", tmp_path, ["the", "cow"]), freeze=FreezeConfig(layers=1))
    assert not model.shared.weight.requires_grad
    assert model.decoder.block[1].layer[0].SelfAttention.q.weight.requires_grad
