import json

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.core.errors import DataError
from alignment.data.rows import write_rows
from alignment.models.encoding import encode_row
from alignment.models.load import load_causal_lm, load_tokenizer
from alignment.sft.config import SFTConfig
from alignment.sft.stage import run

ROWS = [
    {"prompt": "the cow", "completion": " is red"},
    {"prompt": "why the small dog", "completion": " eats"},
    {"prompt": "the cat", "completion": " was good and big"},
    {"prompt": "who runs", "completion": " no dog runs yes"},
]
TOKENS = [3, 2, 5, 5]  # of each answer, its end included


def sft(tiny_folder, tmp_path, rows=None, inputs=None, **settings):
    tmp_path.mkdir(exist_ok=True)
    write_rows(rows or ROWS, tmp_path / "rows.jsonl")
    base = {"model": {"path": str(tiny_folder)}, "data": {"path": str(tmp_path / "rows.jsonl")}, "batch_size": 4}
    config = SFTConfig.model_validate(base | {"warmup": 0} | settings)
    model = Artifact("model", "digest", tiny_folder)
    return run(config, {"model": model, **(inputs or {})}, Context.at(tmp_path / "out"))


def answer_loss(model, tokenizer, rows):
    """Mean -log p of the answers' tokens, one row at a time without padding: the reference."""
    total, count = 0.0, 0
    for row in rows:
        encoded = encode_row(tokenizer, row)
        with torch.no_grad():
            logprobs = model(torch.tensor([encoded.ids])).logits[0].log_softmax(-1)
        for position, (token, counts) in enumerate(zip(encoded.ids, encoded.mask, strict=True)):
            if counts:
                total, count = total - logprobs[position - 1, token].item(), count + 1
    return total / count, count


@pytest.mark.parametrize("packing", [False, True])
def test_loss_is_that_of_the_answers_with_their_ends_whatever_the_batch(tiny_folder, tmp_path, packing):
    """Also proves that packed rows do not see each other."""
    expected, count = answer_loss(load_causal_lm(tiny_folder).eval(), load_tokenizer(tiny_folder), ROWS)
    assert count == sum(TOKENS)
    write_rows(ROWS, tmp_path / "same.jsonl")
    data = {"path": str(tmp_path / "same.jsonl")}
    summary = sft(tiny_folder, tmp_path, steps=1, learning_rate=1e-12, packing=packing, validation=data)
    assert summary["train_loss"] == pytest.approx(expected, abs=1e-5)
    assert summary["validation_loss"] == pytest.approx(expected, abs=1e-5)
    assert summary["train_tokens"] == count
    assert summary["rows"] == (1 if packing else 4)


def test_it_learns_the_answers_and_leaves_a_plain_folder(tiny_folder, tmp_path):
    summary = sft(tiny_folder, tmp_path, steps=40, learning_rate=1e-2)
    model, tokenizer = load_causal_lm(tmp_path / "out").eval(), load_tokenizer(tmp_path / "out")
    loss, _ = answer_loss(model, tokenizer, ROWS)
    assert loss < 0.3
    ids = torch.tensor([tokenizer("the cow")["input_ids"]])
    said = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    assert tokenizer.decode(said[0]) == "the cow is red <|end|>"
    assert summary["trainable_parameters"] == summary["parameters"]
    assert summary["train_tokens"] == 40 * sum(TOKENS)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 10, 20, 30, 40]
    assert lines[-1]["train/loss"] < lines[0]["train/loss"]
    progress = json.loads((tmp_path / "out" / "progress.json").read_text())
    assert (progress["done"], progress["total"]) == (40, 40)


def test_accumulated_batches_are_one_step_on_all_their_tokens(tiny_folder, tmp_path):
    """Rows differ in length, so a mean of means would give other weights."""
    settings = {"steps": 3, "learning_rate": 1e-3, "group_by_length": False}
    whole = sft(tiny_folder, tmp_path / "a", batch_size=4, **settings)
    parts = sft(tiny_folder, tmp_path / "b", batch_size=1, gradient_accumulation=4, **settings)
    assert whole["train_tokens"] == parts["train_tokens"] == 45
    one, other = (load_file(tmp_path / name / "out" / "model.safetensors") for name in "ab")
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=2e-5, rtol=1e-3)


def test_steps_that_match_another_stages_tokens(tiny_folder, tmp_path):
    """15 tokens in 4 rows: batches of 2 hold 7.5 on average, so 75 tokens are 10 steps."""
    other = Artifact("model", "digest", tiny_folder, summary={"train_tokens": 75})
    summary = sft(tiny_folder, tmp_path, match_tokens={"stage": "ppo"}, batch_size=2, inputs={"match_tokens": other})
    assert (summary["steps"], summary["train_tokens"]) == (10, 75)


def test_early_stopping_keeps_the_weights_with_the_lowest_validation_loss(tiny_folder, tmp_path):
    write_rows([{"prompt": "the cow", "completion": " is blue"}], tmp_path / "held_out.jsonl")
    summary = sft(
        tiny_folder,
        tmp_path,
        rows=ROWS[:1],
        steps=60,
        learning_rate=1e-2,
        validation={"path": str(tmp_path / "held_out.jsonl")},
        evaluate_every=2,
        early_stopping={"patience": 2},
    )
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["validation/loss"] for row in rows if "validation/loss" in row}
    assert summary["steps"] < 60
    assert summary["validation_loss"] == pytest.approx(min(losses.values()), abs=1e-6)
    assert summary["steps"] - min(losses, key=losses.__getitem__) == 4  # two evaluations in vain


@pytest.mark.parametrize("bits", [None, 4, 8])
def test_adapters_are_trained_in_fp32_and_merged(tiny_folder, tmp_path, bits):
    quantization = {"quantization": {"bits": bits}} if bits else {}
    write_rows(ROWS, tmp_path / "same.jsonl")
    data = {"path": str(tmp_path / "same.jsonl")}
    settings = {"steps": 30, "learning_rate": 2e-2, "validation": data, "evaluate_every": 10}
    summary = sft(tiny_folder, tmp_path, peft={"r": 4}, **settings, **quantization)
    assert summary["trainable_parameters"] == 2 * (4 * 4 * 128 + 3 * 4 * 192)
    adapter = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}
    assert any((tensor.bfloat16().float() != tensor).any() for tensor in adapter.values())  # not bf16 in disguise
    merged, _ = answer_loss(load_causal_lm(tmp_path / "out").eval(), load_tokenizer(tiny_folder), ROWS)
    before, _ = answer_loss(load_causal_lm(tiny_folder).eval(), load_tokenizer(tiny_folder), ROWS)
    assert merged < 0.5 * before
    assert merged == pytest.approx(summary["validation_loss"], abs=1e-4 if bits is None else 0.3)


def test_bf16_keeps_master_weights_in_fp32(tiny_folder, tmp_path):
    summary = sft(tiny_folder, tmp_path, steps=5, precision="bf16")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert summary["steps"] == 5


def test_long_rows_stop_the_run_before_training(tiny_folder, tmp_path):
    long = {"prompt": "the cow", "completion": " and" * 70}
    with pytest.raises(DataError, match=r"data: row 2: longer than 64 tokens \(the longest has 73\)"):
        sft(tiny_folder, tmp_path, rows=[ROWS[0], long], steps=1)
    assert sft(tiny_folder, tmp_path, rows=[ROWS[0], long], steps=1, on_long="truncate")["train_tokens"] == 3 + 62


def test_rows_of_another_format_are_named(tiny_folder, tmp_path):
    with pytest.raises(DataError, match="line 2: no field 'completion'"):
        sft(tiny_folder, tmp_path, rows=[ROWS[0], {"prompt": "the cow"}], steps=1)
    with pytest.raises(DataError, match="rows hold question"):
        sft(tiny_folder, tmp_path, rows=[{"question": "why"}], steps=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "exactly one of steps, epochs, match_tokens"),
        ({"steps": 1, "epochs": 1}, "exactly one of steps, epochs, match_tokens"),
        ({"steps": 1, "quantization": {"bits": 4}}, "add a peft block"),
        ({"steps": 1, "evaluate_every": 5}, "needs validation"),
        ({"steps": 1, "validation": {"path": "d"}}, "validation equals data"),
        ({"steps": 1, "validation": {"path": "x"}, "early_stopping": {}}, "needs validation data and evaluate_every"),
    ],
)
def test_configurations_that_contradict_themselves(settings, message):
    with pytest.raises(ValidationError, match=message):
        SFTConfig.model_validate({"model": {"path": "m"}, "data": {"path": "d"}} | settings)
