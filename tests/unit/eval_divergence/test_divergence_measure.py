"""Divergence of whole answers: against brute force in float64, against the sampler's own log-ratios, and what is refused."""

import json
import shutil
from contextlib import closing

import numpy as np
import pytest
import torch
from transformers import GraniteConfig, GraniteForCausalLM

from alignment.core.artifact import Artifact
from alignment.core.config import ModelRef
from alignment.core.errors import DataError, ModelError, SuiteError
from alignment.data.rows import write_rows
from alignment.generation.engine import Sampling
from alignment.generation.open import open_engine
from alignment.models.load import load_causal_lm, load_tokenizer
from eval.config import DivergenceConfig, DivergenceReference, EvaluateConfig, SpreadRows
from eval.divergence import Reader, Span, measure, sequence_kl
from eval.divergence_inputs import prepare

SPANS = [Span([1, 9, 8, 30, 2], 3), Span([1, 12], 1), Span([1, 4, 20, 21, 22, 23, 24, 25, 3], 2), Span([1, 40, 41], 1)]


@torch.no_grad()
def brute_force(p, q, span):
    """One prefix at a time, in float64: sum over counted tokens and the whole vocabulary."""
    total = 0.0
    for t in range(span.first, len(span.ids)):
        prefix = torch.tensor([span.ids[:t]])
        logs = []
        for model in (p, q):
            logits = model(prefix).logits[0, -1].double().numpy()
            logs.append(logits - logits.max() - np.log(np.exp(logits - logits.max()).sum()))
        total += float((np.exp(logs[0]) * (logs[0] - logs[1])).sum())
    return total


def doubles(*folders):
    return [load_causal_lm(folder, dropout=False).double().eval() for folder in folders]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_sums_equal_brute_force_in_float64(tiny_base, tiny_moved, batch_size):
    p, q = doubles(tiny_base, tiny_moved)
    expected = [brute_force(p, q, span) for span in SPANS]
    assert sequence_kl(SPANS, Reader(p), Reader(q), batch_size) == pytest.approx(expected, rel=1e-9)
    assert min(expected) > 0.01


def test_fp32_models_come_close(tiny_base, tiny_moved):
    p, q = (load_causal_lm(folder, dropout=False) for folder in (tiny_base, tiny_moved))
    expected = [brute_force(*doubles(tiny_base, tiny_moved), span) for span in SPANS]
    assert sequence_kl(SPANS, Reader(p), Reader(q), 2) == pytest.approx(expected, rel=1e-4)


def test_a_model_that_scales_its_logits_is_read_whole():
    config = GraniteConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, logits_scaling=0.2,
        num_key_value_heads=2, initializer_range=0.3,
    )  # fmt: skip
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(GraniteForCausalLM(config).double().eval())
    readers = [Reader(model) for model in models]
    assert not any(reader.plain for reader in readers)
    expected = [brute_force(*models, span) for span in SPANS]
    assert sequence_kl(SPANS, *readers, 64) == pytest.approx(expected, rel=1e-9)


def test_a_model_does_not_diverge_from_itself(tiny_base):
    reader = Reader(load_causal_lm(tiny_base, dropout=False))
    assert sequence_kl(SPANS, reader, reader, 64) == [0.0] * len(SPANS)


def test_sampled_log_ratios_have_the_same_mean_and_more_noise(tiny_base, tiny_moved):
    """E over y ~ p of sum log p(y) / q(y) is the divergence too: the plain Monte-Carlo estimate agrees within its error."""
    prompts = [[1, 7 + index % 40] for index in range(400)]
    options = {"max_prompt_tokens": 2, "max_new_tokens": 8, "batch_size": 100}
    with closing(open_engine("hf", tiny_base, **options)) as engine:
        answers = engine.generate(prompts, Sampling(8, 1.0, seed=3))
    with closing(open_engine("hf", tiny_moved, **options)) as engine:
        other = engine.logprobs([answer.prompt_ids + answer.response_ids for answer in answers])
    ratios = np.array([sum(a.logprobs) - sum(q[1:]) for a, q in zip(answers, other, strict=True)])
    spans = [Span(a.prompt_ids + a.response_ids, 2) for a in answers]
    readers = (Reader(load_causal_lm(folder, dropout=False)) for folder in (tiny_base, tiny_moved))
    exact = np.array(sequence_kl(spans, *readers, 64))
    error = (ratios - exact).std() / len(ratios) ** 0.5
    assert abs((ratios - exact).mean()) < 3 * error
    assert exact.mean() > 10 * error  # so a wrong sum would be seen
    assert exact.std() < 0.9 * ratios.std()


def prepared(model, reference, tmp_path, rows=None, **changes):
    path = tmp_path / "rows.jsonl"
    write_rows(rows or [{"prompt": f"w{i} w{i + 1}"} for i in range(12)], path)
    block = {"target": SpreadRows(path=str(path)), "max_new_tokens": 5} | changes
    references = [DivergenceReference(model=ModelRef(stage="base"))]
    config = EvaluateConfig(model=ModelRef(stage="sft"), divergence=DivergenceConfig(references=references, **block))
    artifacts = {"model": model, "divergence.references.0.model": reference}
    return prepare(config, {role: Artifact("model", role, folder) for role, folder in artifacts.items()})


def measured(model, reference, tmp_path, rows=None, **changes):
    ready = prepared(model, reference, tmp_path, rows, **changes)
    return measure(ready, load_causal_lm(model, dropout=False), lambda done, total: None)


def test_forward_answers_are_the_references_and_reverse_ones_the_models_own(tiny_base, tiny_moved, tmp_path):
    rows = measured(tiny_moved, tiny_base, tmp_path)
    swapped = measured(tiny_base, tiny_moved, tmp_path)
    sums = {
        name: {(row["direction"], row["doc_id"]): (row["kl"], row["tokens"]) for row in some}
        for name, some in (("straight", rows), ("swapped", swapped))
    }
    for doc in range(12):
        assert sums["straight"]["forward", doc] == pytest.approx(sums["swapped"]["reverse", doc])
        assert sums["straight"]["reverse", doc] == pytest.approx(sums["swapped"]["forward", doc])
    assert all(row["kl"] > 0 and 1 <= row["tokens"] <= 5 for row in rows)
    assert [row["kl"] for row in rows[:12]] != pytest.approx([row["kl"] for row in rows[12:]])


def test_on_texts_the_text_is_the_answer(tiny_base, tiny_moved, tmp_path):
    texts = ["w1 w2 red", "w5 blue w7 w8 w9"]
    rows = measured(tiny_moved, tiny_base, tmp_path, [{"text": text} for text in texts])
    assert [(row["direction"], row["tokens"]) for row in rows] == [("forward", 3), ("forward", 5)]  # the BOS is given
    tokenizer, models = load_tokenizer(tiny_base), doubles(tiny_base, tiny_moved)
    expected = [brute_force(*models, Span(tokenizer(text)["input_ids"], 1)) for text in texts]
    assert [row["kl"] for row in rows] == pytest.approx(expected, rel=1e-4)


def test_rows_are_spread_over_a_sorted_data_set(tiny_base, tiny_moved, tmp_path):
    rows = [{"prompt": f"w{i} red"} for i in range(10)]
    some = prepared(tiny_moved, tiny_base, tmp_path, rows, target=SpreadRows(path=str(tmp_path / "rows.jsonl"), rows=4))
    assert some.inputs["target"].doc_ids == [0, 2, 5, 7]
    tokenizer = load_tokenizer(tiny_base)
    assert some.inputs["target"].ids == [list(tokenizer(f"w{i} red")["input_ids"]) for i in (0, 2, 5, 7)]


def test_chat_prompts_are_rendered(tiny_base, tiny_moved, tmp_path):
    rows = [{"prompt": [{"role": "user", "content": "w1 w2"}]}]
    ready = prepared(tiny_moved, tiny_base, tmp_path, rows)
    tokens = load_tokenizer(tiny_base).convert_ids_to_tokens(ready.inputs["target"].ids[0])
    assert tokens == ["<|user|>", "w1", "w2", "<|end|>", "<|assistant|>"]


def copy_of(folder, target):
    return shutil.copytree(folder, target)


def test_another_vocabulary_is_refused(tiny_base, tmp_path):
    other = copy_of(tiny_base, tmp_path / "wider")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] + 8}))
    with pytest.raises(ModelError, match="its vocabulary has 56 entries, the evaluated model's 64"):
        prepared(other, tiny_base, tmp_path)


def test_another_tokenizer_is_refused(tiny_base, tmp_path):
    other = copy_of(tiny_base, tmp_path / "renamed")
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"w7"', '"crow"'))
    with pytest.raises(ModelError, match="not the evaluated model's: 2 tokens"):
        prepared(tiny_base, other, tmp_path)


def test_another_chat_template_is_refused_for_messages(tiny_base, tmp_path):
    other = copy_of(tiny_base, tmp_path / "template")
    place = next(path for path in other.iterdir() if "<|{{ m.role }}|> " in path.read_text(errors="replace"))
    place.write_text(place.read_text().replace("<|{{ m.role }}|> ", "<|user|> w9 "))
    rows = [{"prompt": [{"role": "user", "content": "w1 w2"}]}]
    with pytest.raises(ModelError, match="base and the evaluated model read its rows as different tokens"):
        prepared(tiny_base, other, tmp_path, rows)
    assert prepared(tiny_base, other, tmp_path, [{"prompt": "w1 w2"}])


def test_prompts_that_leave_no_room_are_named(tiny_base, tiny_moved, tmp_path):
    rows = [{"prompt": "w1"}, {"prompt": "w1 " * 27}]  # and a BOS: 28 + 5 > 32
    with pytest.raises(
        DataError, match=r"row 2: too long for a context of 32 tokens \(the longest has 28, and 5 new ones\)"
    ):
        prepared(tiny_moved, tiny_base, tmp_path, rows)
    assert prepared(tiny_moved, tiny_base, tmp_path, rows, max_new_tokens=4)
    with pytest.raises(DataError, match="row 1: too long"):
        prepared(tiny_moved, tiny_base, tmp_path, [{"text": "w1 " * 32}])


def test_rows_without_prompt_or_text_are_named(tiny_base, tiny_moved, tmp_path):
    with pytest.raises(DataError, match="line 2: no field 'prompt'"):
        prepared(tiny_moved, tiny_base, tmp_path, [{"prompt": "w1"}, {"text": "w1"}])


def test_a_diverged_model_is_named_not_averaged(tiny_base, tiny_moved, tmp_path):
    model = load_causal_lm(tiny_moved, dropout=False)
    with torch.no_grad():
        model.get_output_embeddings().weight[3] = float("nan")
    with pytest.raises(SuiteError, match="forward KL from base is not a finite number"):
        measure(prepared(tiny_moved, tiny_base, tmp_path), model, lambda done, total: None)
