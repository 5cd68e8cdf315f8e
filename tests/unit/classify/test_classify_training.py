"""Classifiers on encoders and decoders: what the head reads, what is trained, and that it learns."""

import json
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from small_models import save_small

from alignment.classify.config import ClassifyConfig
from alignment.classify.stage import mean_cross_entropy, run
from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.core.errors import DataError, ModelError
from alignment.data.rows import write_rows
from alignment.models.classifier import (
    collate,
    encode_texts,
    label_logprobs,
    labels_of,
    load_classifier,
    new_classifier,
)
from alignment.models.config import FreezeConfig, PeftConfig, QuantizationConfig
from alignment.models.load import load_tokenizer, save_model, token_limit

SENTENCE = "the cow dog cat is was red blue big small good bad runs eats sleeps and why"
WORDS = SENTENCE.split()
KINDS = ("bert", "distilbert", "gpt2", "llama")
LORA = {"r": 4, "target_modules": "all-linear"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("small")
    return {kind: save_small(kind, root / kind, WORDS) for kind in (*KINDS, "t5")}


def rows(count):
    """`good` or `bad` stands somewhere in the text, not always last."""
    made = []
    for n in range(count):
        word, before, after = ("good", "bad")[n % 2], WORDS[n % 7], WORDS[n // 7 % 10]
        made.append({"text": f"the {before} {word} {after}"[: None if n % 3 else -len(after) - 1], "label": word})
    return made


def classify(folder, out, data=None, seed=0, **settings):
    out.mkdir(parents=True, exist_ok=True)
    write_rows(data or rows(140), out / "train.jsonl")
    write_rows(rows(34), out / "held_out.jsonl")
    base = {"model": {"path": str(folder)}, "data": {"path": str(out / "train.jsonl")}}
    base |= {"validation": {"path": str(out / "held_out.jsonl")}, "batch_size": 10, "learning_rate": 3e-3}
    config = ClassifyConfig.model_validate(base | {"epochs": 4} | settings)
    return run(config, {"model": Artifact("model", "m", folder)}, Context.at(out / "out", seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("peft", [None, LORA], ids=["full", "lora"])
def test_it_learns_which_word_stands_there_and_leaves_a_plain_folder(folders, tmp_path, kind, peft):
    summary = classify(folders[kind], tmp_path, peft=peft, learning_rate=1e-2 if peft else 3e-3)
    assert summary["labels"] == ["bad", "good"]
    assert summary["validation_accuracy"] > 0.9
    assert summary["validation_confusion"][0][0] + summary["validation_confusion"][0][1] == 17
    assert (summary["trainable_parameters"] < summary["parameters"]) == (peft is not None)
    assert summary["estimated_memory_mib"] > sum(summary["memory_parts_mib"][name] for name in ("weights", "libraries"))
    model, tokenizer = load_classifier(tmp_path / "out"), load_tokenizer(tmp_path / "out", generates=False)
    assert labels_of(model) == ["bad", "good"]
    texts = [row["text"] for row in rows(34)]
    ids = encode_texts(tokenizer, texts, 64, "error", "texts")
    logprobs = label_logprobs(model, ids, tokenizer.pad_token_id)
    right = [labels_of(model)[number] for number in logprobs.argmax(-1).tolist()]
    hits = [label == row["label"] for label, row in zip(right, rows(34), strict=True)]
    assert sum(hits) / 34 == summary["validation_accuracy"]
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["train/loss"] > lines[-1]["train/loss"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_reads_the_same_in_any_company(folders, kind):
    """GPT-2's pad is its EOS here: were a text to end in it, or the batch padded on the left, another token would be read."""
    tokenizer = load_tokenizer(folders[kind], generates=False)
    assert (tokenizer.pad_token_id == tokenizer.eos_token_id) == (kind == "gpt2")
    tokenizer.padding_side = "left"  # as whoever generated last may have left it
    model = new_classifier(folders[kind], ["a", "b", "c"], seed=1).eval()
    model.config.pad_token_id = tokenizer.pad_token_id
    for name, parameter in model.named_parameters():
        if not name.startswith(model.base_model_prefix):
            parameter.data.mul_(30)  # a fresh head says nearly the same of everything
    end = tokenizer.eos_token or ""
    texts = ["the cow", "the cow runs and the dog sleeps", f"why {end}", "bad"]
    ids = encode_texts(tokenizer, texts, 64, "error", "texts")
    with torch.no_grad():
        alone = torch.cat([model(torch.tensor([row])).logits for row in ids]).log_softmax(-1)
        if kind not in ("bert", "distilbert"):  # the head on the last token, without any transformers' search for it
            last = torch.stack([model.base_model(torch.tensor([row])).last_hidden_state[0, -1] for row in ids])
            torch.testing.assert_close(model.score(last).log_softmax(-1), alone, atol=1e-5, rtol=1e-5)
    assert (alone[0] - alone[1]).abs().max() > 1e-3
    together = label_logprobs(model, ids, tokenizer.pad_token_id)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_batches_are_padded_on_the_right():
    batch = collate([[5, 6, 7], [8]], pad=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_the_loss_is_a_mean_over_the_rows_of_a_step_however_they_are_divided(folders, tmp_path):
    """Two rows in one batch of 3 and one of 1 would weigh differently in a mean of means."""

    class Outputs:
        logits = torch.tensor([[0.0, 0.0], [2.0, 0.0]])

    by_hand = (torch.tensor(2.0).log() + torch.tensor(1 + torch.e**-2.0).log()) / 2
    assert mean_cross_entropy(Outputs, torch.tensor([0, 0])).item() == pytest.approx(by_hand.item())
    assert mean_cross_entropy(Outputs, torch.tensor([0, 0]), 8).item() == pytest.approx(by_hand.item() / 4)
    settings = {"epochs": None, "steps": 3, "data": rows(40), "group_by_length": False, "warmup": 0}
    whole = classify(folders["llama"], tmp_path / "whole", **settings)
    parts = classify(folders["llama"], tmp_path / "parts", **settings | {"batch_size": 5, "gradient_accumulation": 2})
    assert parts["train_loss"] == pytest.approx(whole["train_loss"], abs=1e-5)
    one, other = (load_file(tmp_path / name / "out" / "model.safetensors") for name in ("whole", "parts"))
    for name, weights in one.items():
        torch.testing.assert_close(other[name], weights, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_with_its_head_merges_into_a_classifier_that_says_the_same(folders, tmp_path, kind):
    tokenizer = load_tokenizer(folders[kind], generates=False)
    model = new_classifier(folders[kind], ["no", "yes"], peft=PeftConfig(r=4), seed=1)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    heads = {"distilbert": ("pre_classifier", "classifier"), "bert": ("classifier", "pooler.dense")}
    for head in heads.get(kind, ("score",)):
        assert any(f"{head}.modules_to_save" in name for name in trained), f"{head} would stay as it was drawn"
    assert not any("lora" in name and any(h in name for h in ("classifier", "score", "pooler")) for name in trained)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in trained:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    model.config.pad_token_id = tokenizer.pad_token_id
    ids = encode_texts(tokenizer, ["the cow runs", "bad"], 64, "error", "texts")
    expected = label_logprobs(model, ids, tokenizer.pad_token_id)
    save_model(model, tokenizer, tmp_path)
    found = label_logprobs(load_classifier(tmp_path), ids, tokenizer.pad_token_id)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    assert labels_of(load_classifier(tmp_path)) == ["no", "yes"]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", ["bert", "distilbert"])  # BERT's pooler is new, too
def test_the_head_on_weights_of_few_bits_stays_in_full(folders, tmp_path, kind, bits):
    summary = classify(folders[kind], tmp_path, peft=LORA, quantization={"bits": bits}, learning_rate=1e-2)
    assert summary["validation_accuracy"] > 0.9
    quantized = new_classifier(
        folders[kind],
        ["a", "b"],
        peft=PeftConfig(),
        quantization=QuantizationConfig.model_validate({"bits": bits}),
    )
    small = {name for name, part in quantized.named_modules() if type(part).__name__ in ("Linear4bit", "Linear8bitLt")}
    assert any("q_lin" in name or "query" in name for name in small)
    assert not any("classifier" in name or "pooler" in name for name in small)


def test_the_same_seed_draws_the_same_head_and_frozen_layers_stay(folders, tmp_path):
    heads = [new_classifier(folders["gpt2"], ["a", "b"], seed=seed).score.weight for seed in (1, 1, 2)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    model = new_classifier(folders["bert"], ["a", "b"], freeze=FreezeConfig(layers=1))
    still = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert still == {name for name, _ in model.named_parameters() if "embeddings" in name or ".layer.0." in name}


def test_a_tokenizer_that_ends_in_the_pad_does_not_move_the_last_token(folders):
    tokenizer = load_tokenizer(folders["gpt2"], generates=False)
    plain, ended = encode_texts(tokenizer, ["the cow", "the cow <|endoftext|>"], 64, "error", "texts")
    assert plain == ended == tokenizer("the cow")["input_ids"]
    with pytest.raises(DataError, match="texts: row 1: no token"):
        encode_texts(tokenizer, ["<|endoftext|>"], 64, "error", "texts")


def test_long_texts_stop_the_run_or_are_cut_with_their_last_token_kept(folders, tmp_path):
    tokenizer = load_tokenizer(folders["bert"], generates=False)
    assert token_limit(new_classifier(folders["bert"], ["a", "b"]), tokenizer, None) == 64
    long = [{"text": "cow " * 80, "label": "good"}, {"text": "dog", "label": "bad"}]
    with pytest.raises(DataError, match=r"data: row 1: longer than 64 tokens \(the longest has 82\)"):
        classify(folders["bert"], tmp_path, data=long)
    ids = encode_texts(tokenizer, [long[0]["text"]], 16, "truncate", "data")[0]
    assert len(ids) == 16 and tokenizer.decode(ids[-1:]) == "[SEP]"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([{"text": "a", "label": "x"}] * 2, "all rows have the label 'x'"),
        (
            [{"text": "a", "label": 0}, {"text": "b", "label": 1}],
            "validation: rows 1, 2, .*: label 'good', which no training",
        ),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(folders, tmp_path, data, message):
    with pytest.raises(DataError, match=message):
        classify(folders["distilbert"], tmp_path, data=data)


def test_models_that_are_no_classifiers_are_refused(folders, tiny_folder):
    with pytest.raises(ModelError, match="a sequence classifier"):
        load_classifier(tiny_folder)
    weights = load_file(folders["gpt2"] / "model.safetensors")
    assert weights  # what is missing of the trunk is told, not drawn
    from safetensors.torch import save_file

    broken = folders["gpt2"].parent / "broken"
    broken.mkdir()
    for file in folders["gpt2"].iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    kept = {name: value for name, value in weights.items() if ".h.1." not in name}
    save_file(kept, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"its weights lack transformer\.h\.1"):
        new_classifier(broken, ["a", "b"])


def test_adapters_that_hide_the_end_of_the_text_are_refused():
    with pytest.raises(ValidationError):
        ClassifyConfig.model_validate(
            {"model": {"path": "m"}, "data": {"path": "d"}, "epochs": 1, "peft": {"method": "prompt"}}
        )


def test_a_classifier_goes_on_by_an_adapter_with_other_labels(folders, tmp_path):
    three = [*rows(60), {"text": "the cow sleeps", "label": "neither"}]
    assert len(classify(folders["distilbert"], tmp_path / "three", data=three, epochs=1)["labels"]) == 3
    summary = classify(tmp_path / "three" / "out", tmp_path / "two", peft=LORA, epochs=1)
    assert labels_of(load_classifier(tmp_path / "two" / "out")) == summary["labels"] == ["bad", "good"]


def test_an_encoder_decoder_under_a_head_is_validated_along_the_way(folders, tmp_path):
    assert classify(folders["t5"], tmp_path, evaluate_every=10, epochs=1)["validation_rows"] == 34


def test_messages_are_no_text(folders, tmp_path):
    data = [{"text": [{"role": "user", "content": "the cow"}], "label": label} for label in ("good", "bad")]
    with pytest.raises(DataError, match="data: rows 1, 2: chat messages, which a classifier does not read"):
        classify(folders["bert"], tmp_path, data=data)


def test_the_figures_are_those_of_the_model_that_is_left(folders, tmp_path):
    """A best step that lies before the last one is what is measured and kept."""
    write_rows(rows(60), tmp_path / "rows.jsonl")
    write_rows(rows(34), tmp_path / "held_out.jsonl")
    settings = {"model": {"path": "m"}, "data": {"path": str(tmp_path / "rows.jsonl")}, "batch_size": 10, "steps": 12}
    settings |= {"validation": {"path": str(tmp_path / "held_out.jsonl")}, "evaluate": {"every": 4, "best": "task"}}
    config = ClassifyConfig.model_validate(settings | {"learning_rate": 3e-3})
    values = iter([1.0, 0.5, 0.5])

    def measure(model, folder):
        entries = {"task": {"value": next(values), "role": "target", "higher_is_better": True}}
        (folder / "evaluation.json").write_text(json.dumps({"tasks": entries}))
        return entries

    context = replace(Context.at(tmp_path / "out"), measure=measure)
    summary = run(config, {"model": Artifact("model", "m", folders["gpt2"])}, context)
    assert summary["best_step"] == 4
    tokenizer = load_tokenizer(tmp_path / "out", generates=False)
    ids = encode_texts(tokenizer, [row["text"] for row in rows(34)], 64, "error", "texts")
    logprobs = label_logprobs(load_classifier(tmp_path / "out"), ids, tokenizer.pad_token_id)
    right = [logprobs[n, ["bad", "good"].index(row["label"])].item() for n, row in enumerate(rows(34))]
    assert summary["validation_loss"] == pytest.approx(-sum(right) / 34, abs=1e-5)
