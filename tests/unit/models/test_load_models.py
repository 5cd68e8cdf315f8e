import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_models import save_small
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    ViTConfig,
)
from transformers.pytorch_utils import Conv1D

from alignment.core.errors import ModelError
from alignment.models.config import PeftConfig, QuantizationConfig
from alignment.models.load import (
    from_pretrained,
    load_causal_lm,
    load_tokenizer,
    merged,
    parameter_counts,
    save_model,
    token_limit,
)
from alignment.models.reward_model import new_reward_model

IDS = torch.tensor([[5, 6, 9, 11, 1], [7, 8, 14, 16, 1]])


def test_errors_name_the_folder_and_the_remedy(tiny_folder, tmp_path):
    with pytest.raises(ModelError, match="no such model folder"):
        load_causal_lm(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_causal_lm(tmp_path / "empty")
    ViTConfig().save_pretrained(tmp_path / "vision")
    with pytest.raises(ModelError, match="does not generate text"):
        load_causal_lm(tmp_path / "vision")
    with pytest.raises(ModelError, match="no usable tokenizer"):
        load_tokenizer(tmp_path / "vision")


def test_a_reward_model_is_not_taken_for_a_language_model(tiny_folder, tmp_path):
    new_reward_model(tiny_folder, "last").save_pretrained(tmp_path / "reward")
    with pytest.raises(ModelError, match="LlamaForSequenceClassification"):
        load_causal_lm(tmp_path / "reward")


def test_pickled_weights_are_refused(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    torch.save(load_causal_lm(tiny_folder).state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        load_causal_lm(tmp_path / "pickled")


def test_a_missing_pad_token_becomes_eos_and_is_told(tiny_folder, tmp_path, caplog):
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.pad_token = None
    shutil.copytree(tiny_folder, tmp_path / "padless")
    tokenizer.save_pretrained(tmp_path / "padless")
    assert load_tokenizer(tmp_path / "padless").pad_token == "<|end|>"
    assert "no pad token" in caplog.text


def test_dropout_can_be_turned_off(tmp_path):
    config = GPT2Config(vocab_size=30, n_positions=16, n_embd=32, n_layer=1, n_head=2, resid_pdrop=0.5, attn_pdrop=0.5)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    noisy, quiet = load_causal_lm(tmp_path), load_causal_lm(tmp_path, dropout=False)
    assert noisy.training and quiet.training
    assert not torch.equal(noisy(IDS).logits, noisy(IDS).logits)
    assert torch.equal(quiet(IDS).logits, quiet(IDS).logits)


def test_a_fresh_adapter_follows_its_seed_alone_and_leaves_the_global_stream(tiny_folder):
    def first_weights(seed: int) -> torch.Tensor:
        model = load_causal_lm(tiny_folder, peft=PeftConfig(), seed=seed)
        return next(p for name, p in model.named_parameters() if "lora_A" in name)

    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = first_weights(3)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(one, first_weights(3))
    assert not torch.equal(one, first_weights(4))


def test_unknown_target_modules_are_a_users_error(tiny_folder):
    with pytest.raises(ModelError, match="q_proj"):
        load_causal_lm(tiny_folder, peft=PeftConfig(target_modules=["nowhere"]))


def test_counts_of_a_rank_2_adapter_by_hand(tiny_folder):
    counts = parameter_counts(load_causal_lm(tiny_folder, peft=PeftConfig(r=2)))
    per_layer = 4 * 2 * (64 + 64) + 3 * 2 * (64 + 128)  # q, k, v, o and gate, up, down
    assert counts["trainable_parameters"] == 2 * per_layer
    base = 26 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64) + 64
    assert counts["parameters"] == base + 2 * per_layer
    quantised = load_causal_lm(tiny_folder, peft=PeftConfig(r=2), quantization=QuantizationConfig(bits=4))
    assert parameter_counts(quantised) == counts


def _train(model, steps=12, rate=1e-2, autocast=False):
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, rate)
    losses = []
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("bits", [None, 4, 8])
def test_adapters_train_on_frozen_weights(tiny_folder, bits):
    quantization = QuantizationConfig(bits=bits) if bits else None
    model = load_causal_lm(tiny_folder, peft=PeftConfig(), quantization=quantization)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    losses = _train(model)
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if not p.requires_grad)


def _dequantised(model, folder):
    """A reference in plain fp32: the base with every 4-bit weight replaced by what it stands for."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    reference = load_causal_lm(folder, peft=PeftConfig(), seed=0)
    weights = {}
    for name, part in model.named_modules():
        if isinstance(part, Linear4bit):
            weights[name.removesuffix(".base_layer")] = dequantize_4bit(
                part.weight.data, part.weight.quant_state
            ).float()
    modules = dict(reference.named_modules())
    with torch.no_grad():
        for name, weight in weights.items():
            modules[name].weight.copy_(weight)
    assert len(weights) == 14
    return reference


def test_gradients_of_4_bit_training_stay_right_after_an_evaluation(tiny_folder):
    model = load_causal_lm(tiny_folder, peft=PeftConfig(), quantization=QuantizationConfig(bits=4), seed=0)
    with torch.no_grad():  # a fresh adapter's B is zero, which hides A's gradient
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    reference = _dequantised(model, tiny_folder)
    reference.load_state_dict({n: p for n, p in model.named_parameters() if "lora_" in n}, strict=False)
    model.eval()
    with torch.no_grad():
        model(IDS)
    model.train()
    for each in (model, reference):
        each(IDS, labels=IDS).loss.backward()
    expected = {n: p.grad for n, p in reference.named_parameters() if p.grad is not None}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            error = (parameter.grad - expected[name]).norm() / expected[name].norm()
            assert error < 1e-3, (name, error)


def _full(part):
    """What the 8 bits of a layer stand for: a scale for each output."""
    return part.weight.CB.float() * (part.weight.SCB / 127).unsqueeze(1)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rest", ["fp32", "bf16"])
def test_norms_embeddings_and_head_are_held_as_told_beside_few_bits(tiny_folder, bits, rest):
    few = QuantizationConfig(bits=bits, rest=rest)
    model = load_causal_lm(tiny_folder, "bf16", PeftConfig(), few)
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    quantised = {name for name in dtypes if name.endswith("_proj.base_layer.weight")}
    assert len(quantised) == 14 and {dtypes[name] for name in quantised} == {torch.uint8 if bits == 4 else torch.int8}
    assert {dtype for name, dtype in dtypes.items() if "lora_" in name} == {torch.float32}
    others = {name: dtype for name, dtype in dtypes.items() if name not in quantised and "lora_" not in name}
    assert {name.split(".")[-2] for name in others} == {
        "embed_tokens", "input_layernorm", "post_attention_layernorm", "norm",
    }  # fmt: skip
    assert set(others.values()) == {torch.float32 if rest == "fp32" else torch.bfloat16}
    head = model.get_output_embeddings()
    assert type(head) is torch.nn.Linear and head.weight.dtype == next(iter(others.values()))
    losses = _train(model, steps=30, autocast=True)
    assert losses[-1] < 0.7 * losses[0]


def test_gradients_of_8_bit_training_are_those_of_the_weights_that_the_bits_stand_for(tiny_folder):
    """Up to the rounding of activations to 8 bits."""
    model = load_causal_lm(tiny_folder, peft=PeftConfig(), quantization=QuantizationConfig(bits=8), seed=0)
    reference = load_causal_lm(tiny_folder, peft=PeftConfig(), seed=0)
    modules = dict(reference.named_modules())
    with torch.no_grad():
        for name, part in model.named_modules():
            if type(part).__name__ == "Linear8bitLt":
                modules[name].weight.copy_(_full(part))
        for each in (model, reference):
            for name, parameter in each.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.01)
    model.eval()
    with torch.no_grad():
        model(IDS)  # an evaluation in between, as in training
    model.train()
    for each in (model, reference):
        each(IDS, labels=IDS).loss.backward()
    expected = {name: parameter.grad for name, parameter in reference.named_parameters() if parameter.grad is not None}
    trained = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained.keys() == expected.keys()
    for name, gradient in trained.items():
        assert (gradient - expected[name]).norm() / expected[name].norm() < 0.05, name


def test_saved_lora_is_the_adapted_model_merged_and_its_adapter(tiny_folder, tmp_path):
    model = load_causal_lm(tiny_folder, peft=PeftConfig())
    _train(model)
    save_model(model, load_tokenizer(tiny_folder), tmp_path / "out")
    model.eval()
    with torch.no_grad():
        adapted, plain = model(IDS).logits, load_causal_lm(tmp_path / "out")(IDS).logits
        base = load_causal_lm(tiny_folder)(IDS).logits
        again = merged(model, tmp_path / "out" / "adapter")(IDS).logits
    torch.testing.assert_close(plain, adapted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(again, adapted, atol=1e-4, rtol=1e-4)
    assert (plain - base).abs().max() > 0.1
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").exists()
    assert load_tokenizer(tmp_path / "out").chat_template


def test_merging_keeps_the_dtype_that_the_base_has_on_disk(tiny_folder, tmp_path):
    half = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "base")
    tokenizer = load_tokenizer(tiny_folder)
    save_model(load_causal_lm(tmp_path / "base", peft=PeftConfig()), tokenizer, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    saved = from_pretrained(AutoModelForCausalLM, tmp_path / "out", dtype="auto")
    assert saved.dtype == torch.bfloat16


def test_a_quantised_adapter_is_merged_into_the_unquantised_base(tiny_folder, tmp_path):
    model = load_causal_lm(tiny_folder, peft=PeftConfig(), quantization=QuantizationConfig(bits=4))
    _train(model)
    save_model(model, load_tokenizer(tiny_folder), tmp_path / "out")
    saved = load_causal_lm(tmp_path / "out")
    base = load_causal_lm(tiny_folder)
    name = "model.layers.0.mlp.up_proj"
    part = model.get_submodule("base_model.model." + name)
    delta = part.lora_B["default"].weight.float() @ part.lora_A["default"].weight.float() * (16 / 8)
    expected = base.get_submodule(name).weight + delta
    torch.testing.assert_close(saved.get_submodule(name).weight, expected, atol=1e-5, rtol=1e-4)
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_the_most_tokens_of_a_text():
    """Positions bind; a tokenizer's word alone does not, once the recipe says otherwise."""

    def limit(positions, tokenizer, wanted):
        config = SimpleNamespace(max_position_embeddings=positions)
        model = torch.nn.Module()
        model.config = SimpleNamespace(get_text_config=lambda: config)  # type: ignore[assignment]
        return token_limit(model, SimpleNamespace(model_max_length=tokenizer), wanted)

    assert limit(514, 512, None) == limit(514, 512, 600) == 512  # RoBERTa
    assert limit(None, 512, None) == 512 and limit(None, 512, 1024) == 1024  # T5
    assert limit(1024, 10**30, None) == 1024 and limit(1024, 10**30, 128) == 128


@pytest.mark.parametrize("kind", ["falcon", "gpt2", "opt", "gpt_neox", "qwen2"])
@pytest.mark.parametrize("bits", [4, 8])
def test_every_linear_layer_of_a_block_is_held_in_few_bits(kind, bits, tmp_path):
    folder = save_small(kind, tmp_path / kind, ["cow", "dog"])
    model = load_causal_lm(folder, quantization=QuantizationConfig(bits=bits))
    linear = {name: part for name, part in model.named_modules() if isinstance(part, (torch.nn.Linear, Conv1D))}
    assert [name for name, part in linear.items() if "bitsandbytes" not in type(part).__module__] == [
        "embed_out" if "embed_out" in linear else "lm_head"
    ]
    assert any(part.weight.dtype in (torch.uint8, torch.int8) for part in linear.values())
    assert str(folder) not in Path("/proc/self/maps").read_text()  # else all of the file's pages stay in memory
    if kind == "falcon":  # elsewhere its own kind of layer stays
        assert type(load_causal_lm(folder).transformer.h[0].mlp.dense_h_to_4h).__name__ == "FalconLinear"


def test_a_model_whose_layers_cannot_be_held_in_few_bits_is_refused(tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_local_experts": 4}
    config = MixtralConfig(vocab_size=32, num_attention_heads=2, num_key_value_heads=2, **sizes)
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"24,\d+ of 28,\d+ weights cannot be held in few bits"):
        load_causal_lm(tmp_path, peft=PeftConfig(r=2), quantization=QuantizationConfig(bits=4))
