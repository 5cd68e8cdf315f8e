"""Adapters that cannot be merged: right in every padding, equal to peft's, saved beside an untouched base, refused where unfit."""

import math

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.core.errors import ModelError
from alignment.data.rows import write_rows
from alignment.generation.engine import Sampling
from alignment.generation.open import open_engine
from alignment.models.adapters import add_adapter
from alignment.models.bottleneck import Bottleneck
from alignment.models.config import PeftConfig, QuantizationConfig
from alignment.models.layout import is_attached
from alignment.models.load import context_length, load_causal_lm, load_to_read, load_tokenizer, save_model
from alignment.models.virtual_tokens import virtual_tokens
from alignment.sft.config import SFTConfig
from alignment.sft.stage import run

METHODS = {
    "prefix": {"method": "prefix", "virtual_tokens": 4},
    "prompt": {"method": "prompt", "virtual_tokens": 4},
    "ptuning": {"method": "ptuning", "virtual_tokens": 4},
    "bottleneck": {"method": "bottleneck", "width": 8},
}
EACH = pytest.mark.parametrize("method", METHODS)
VIRTUAL = pytest.mark.parametrize("method", ["prefix", "prompt", "ptuning"])
LONG, SHORT = [5, 6, 9, 11, 14, 16], [7, 8, 12]
ROWS = [{"prompt": "the cow", "completion": " is red"}, {"prompt": "who runs", "completion": " no dog runs yes"}]


def moved(model):
    """As if it had been trained: what is trainable is no longer as it began."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return model.eval()


def adapted(folder, method):
    return moved(load_causal_lm(folder, peft=PeftConfig.model_validate(METHODS[method]), seed=1))


def batch(side):
    """Both rows padded on that side: ids, attention mask, and where the shorter one lies."""
    pad, ones = [0] * 3, [1] * 3
    ids = [LONG, pad + SHORT if side == "left" else SHORT + pad]
    mask = [[1] * 6, pad + ones if side == "left" else ones + pad]
    return torch.tensor(ids), torch.tensor(mask), slice(3, 6) if side == "left" else slice(0, 3)


@torch.no_grad()
def alone(model, ids):
    return model(torch.tensor([ids])).logits[0]


@EACH
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_means_the_same_alone_and_padded_on_either_side(tiny_folder, method, side):
    model = adapted(tiny_folder, method)
    ids, mask, where = batch(side)
    with torch.no_grad():
        logits = model(ids, attention_mask=mask, use_cache=False).logits
    torch.testing.assert_close(logits[0], alone(model, LONG), atol=1e-5, rtol=0)
    torch.testing.assert_close(logits[1, where], alone(model, SHORT), atol=1e-5, rtol=0)
    assert (alone(model, SHORT) - alone(load_causal_lm(tiny_folder).eval(), SHORT)).abs().max() > 0.01


@EACH
def test_generation_in_a_left_padded_batch_is_that_of_each_row_alone_and_of_the_plain_forward_pass(tiny_folder, method):
    model = adapted(tiny_folder, method)
    ids, mask, _ = batch("left")
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    together = model.generate(input_ids=ids, attention_mask=mask, **options)
    for row, prompt in zip(together, (LONG, SHORT), strict=True):
        text = list(prompt)
        for _ in range(6):
            text.append(int(alone(model, text)[-1].argmax()))
        assert row[-6:].tolist() == text[-6:]


def gpt2():
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=30, n_positions=24, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3)
    )


def opt():
    sizes = {
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    return OPTForCausalLM(OPTConfig(vocab_size=30, max_position_embeddings=24, init_std=0.3, pad_token_id=0, **sizes))


@VIRTUAL
@pytest.mark.parametrize("make", [gpt2, opt])
def test_models_with_a_table_of_positions_too(make, method):
    """OPT's language model goes around its own trunk, and reads positions off the mask."""
    torch.manual_seed(0)
    model = moved(add_adapter(make().eval(), PeftConfig.model_validate(METHODS[method])))
    ids, mask, where = batch("left")
    with torch.no_grad():
        logits = model(ids, attention_mask=mask).logits
    torch.testing.assert_close(logits[1, where], alone(model, SHORT), atol=1e-4, rtol=0)
    assert context_length(model) == 20
    assert alone(model, [5] * 20).isfinite().all()
    with pytest.raises(IndexError):
        alone(model, [5] * 21)


@VIRTUAL
def test_peft_reads_the_same_from_the_saved_files_one_row_at_a_time(tiny_folder, tmp_path, method):
    model = adapted(tiny_folder, method)
    save_model(model, load_tokenizer(tiny_folder), tmp_path)
    theirs = PeftModel.from_pretrained(load_causal_lm(tiny_folder), str(tmp_path / "adapter")).eval()
    for ids in (LONG, SHORT):
        torch.testing.assert_close(alone(model, ids), alone(theirs, ids)[-len(ids) :], atol=1e-5, rtol=0)


def test_a_bottleneck_by_hand():
    """down = (1, -1), up = (2, 0): h = (3, 1) has 2 in between, gelu(2) = 2 * Phi(2) = 1.9545, and gets (2 * 1.9545, 0) added."""
    part = Bottleneck(2, 1)
    assert torch.equal(part(torch.tensor([3.0, 1.0])), torch.tensor([3.0, 1.0]))  # fresh, it changes nothing
    with torch.no_grad():
        part.down.weight.copy_(torch.tensor([[1.0, -1.0]]))
        part.up.weight.copy_(torch.tensor([[2.0], [0.0]]))
    phi = 0.5 * (1 + math.erf(2 / 2**0.5))
    torch.testing.assert_close(part(torch.tensor([3.0, 1.0])), torch.tensor([3 + 2 * 2 * phi, 1.0]))


def test_bottlenecks_stand_after_attention_and_feed_forward_or_where_they_are_told(tiny_folder):
    def layers(**options):
        model = load_causal_lm(tiny_folder, peft=PeftConfig(method="bottleneck", width=8, **options))
        return sum(isinstance(part, Bottleneck) for part in model.modules()), model

    count, model = layers()
    assert count == 4
    one = 64 * 8 + 8 + 8 * 64 + 64
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 4 * one
    assert layers(target_modules=["down_proj"])[0] == 2
    with pytest.raises(ModelError, match=r"no layer is called nowhere[\s\S]*o_proj"):
        layers(target_modules=["nowhere"])


@EACH
def test_base_and_adapter_lie_beside_each_other_and_nobody_takes_the_base_for_the_whole(tiny_folder, tmp_path, method):
    model = adapted(tiny_folder, method)
    save_model(model, load_tokenizer(tiny_folder), tmp_path)
    assert is_attached(tmp_path) and not is_attached(tiny_folder)
    torch.testing.assert_close(alone(load_to_read(tmp_path), LONG), alone(model, LONG), atol=1e-6, rtol=0)
    assert not any(
        parameter.requires_grad for name, parameter in load_to_read(tmp_path).named_parameters() if "bottle" in name
    )
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_folder, tmp_path / "base"))
    assert all(torch.equal(before[name], after[name]) for name in before | after)
    with pytest.raises(ModelError, match="start from its base, or train it with an adapter that merges"):
        load_causal_lm(tmp_path)
    with pytest.raises(ValueError, match="Unrecognized model"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(ModelError, match="set engine: hf"):
        open_engine("vllm", tmp_path, max_prompt_tokens=4, max_new_tokens=4, batch_size=2)


@EACH
def test_it_learns_and_leaves_the_base_alone(tiny_folder, tmp_path, method):
    write_rows(ROWS, tmp_path / "rows.jsonl")
    rate = {"ptuning": 3e-3}.get(method, 3e-2)
    settings = {"model": {"path": "m"}, "data": {"path": str(tmp_path / "rows.jsonl")}, "batch_size": 2, "steps": 30}
    config = SFTConfig.model_validate(settings | {"learning_rate": rate, "peft": METHODS[method]})
    summary = run(config, {"model": Artifact("model", "m", tiny_folder)}, Context.at(tmp_path / "out"))
    assert summary["train_loss"] < 0.6 * 3.2  # ln of 25 words is where it starts
    assert summary["trainable_parameters"] < summary["parameters"] / 5
    checkpoint = load_file(tmp_path / "out/scratch/checkpoints/checkpoint-30/model.safetensors")
    assert sum(weight.numel() for weight in checkpoint.values()) == summary["trainable_parameters"]


@EACH
def test_rollouts_come_from_transformers_whatever_the_lengths_of_the_prompts(tiny_folder, tmp_path, method):
    save_model(adapted(tiny_folder, method), load_tokenizer(tiny_folder), tmp_path)
    model, sampling = load_to_read(tmp_path), Sampling(max_new_tokens=8, temperature=0.7, seed=3)
    engine = open_engine("hf", tmp_path, max_prompt_tokens=6, max_new_tokens=8, batch_size=8)
    for answer in engine.generate([LONG, SHORT, [4], SHORT], sampling):
        scores = (alone(model, answer.prompt_ids + answer.response_ids) / 0.7).log_softmax(-1)
        expected = [
            scores[place - 1, token].item() for place, token in enumerate(answer.response_ids, len(answer.prompt_ids))
        ]
        assert answer.logprobs == pytest.approx(expected, abs=1e-4)
    taken = 4 if virtual_tokens(model) else 0
    with pytest.raises(ModelError, match=f"do not fit its context of {64 - taken}"):
        open_engine("hf", tmp_path, max_prompt_tokens=57, max_new_tokens=8, batch_size=8)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@EACH
def test_in_bf16_too(tiny_folder, tmp_path, method, precision):
    save_model(adapted(tiny_folder, method), load_tokenizer(tiny_folder), tmp_path)
    exact, model = load_to_read(tmp_path), load_to_read(tmp_path, precision)
    assert (alone(model, LONG).float() - alone(exact, LONG)).abs().max() < 0.5


@pytest.mark.parametrize(
    ("peft", "message"),
    [
        ({"method": "prefix"}, "virtual_tokens: say how many prefix is to put before every text"),
        ({"method": "bottleneck"}, "width: say how wide"),
        ({"method": "prompt", "virtual_tokens": 4, "r": 8}, "r: prompt has no rank"),
        ({"method": "ptuning", "virtual_tokens": 4, "target_modules": ["q_proj"]}, "ptuning has no layers to choose"),
        ({"method": "lora", "virtual_tokens": 4}, "virtual_tokens: lora has no virtual tokens"),
        ({"method": "bottleneck", "width": 8, "dropout": 0.1}, "dropout: bottleneck has no dropout"),
        ({"method": "bottleneck", "width": 8, "target_modules": "all-linear"}, "name those layers, or leave it out"),
    ],
)
def test_options_that_say_nothing_or_too_little_are_refused(peft, message):
    with pytest.raises(ValidationError, match=message):
        PeftConfig.model_validate(peft)


def test_what_does_not_go_together_is_refused():
    base = {"model": {"path": "m"}, "data": {"path": "d"}, "steps": 1, "peft": METHODS["prefix"]}
    with pytest.raises(ValidationError, match="quantization: goes with lora, rslora, dora and ia3, not with prefix"):
        SFTConfig.model_validate(base | {"quantization": QuantizationConfig(bits=4)})
    with pytest.raises(ValidationError, match="packing: prefix stands before every text"):
        SFTConfig.model_validate(base | {"packing": True})
    SFTConfig.model_validate(base | {"packing": True, "peft": METHODS["bottleneck"]})
