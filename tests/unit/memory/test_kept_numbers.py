"""What the estimate says that a layer keeps for the backward pass, against what autograd really keeps."""

from dataclasses import replace

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from alignment.memory.estimate import Training, activations
from alignment.memory.shape import shape_of
from alignment.models.adapters import add_adapter
from alignment.models.config import PeftConfig

WORDS, ROWS, LENGTH, HIDDEN, INNER = 500, 4, 64, 128, 320


def llama(layers):
    sizes = {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": layers}
    return LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, num_attention_heads=4, num_key_value_heads=2, **sizes))


def gpt2(layers):
    return GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, n_embd=HIDDEN, n_inner=INNER, n_layer=layers, n_head=4))


def opt(layers):
    sizes = {"hidden_size": HIDDEN, "word_embed_proj_dim": HIDDEN, "ffn_dim": INNER, "num_hidden_layers": layers}
    return OPTForCausalLM(OPTConfig(vocab_size=WORDS, num_attention_heads=4, **sizes))


def gpt_neox(layers):
    sizes = {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": layers}
    return GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=WORDS, num_attention_heads=4, **sizes))


def bert(layers):
    sizes = {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": layers}
    return BertForSequenceClassification(BertConfig(vocab_size=WORDS, num_attention_heads=4, **sizes))


def distilbert(layers):
    sizes = {"dim": HIDDEN, "hidden_dim": INNER, "n_layers": layers, "n_heads": 4}
    return DistilBertForSequenceClassification(DistilBertConfig(vocab_size=WORDS, **sizes))


def t5(layers, **options):
    sizes = {"d_model": HIDDEN, "d_ff": INNER, "num_layers": layers, "num_heads": 4, "d_kv": 48}
    return T5ForConditionalGeneration(T5Config(vocab_size=WORDS, decoder_start_token_id=0, **sizes, **options))


def t5_gated(layers):
    return t5(layers, feed_forward_proj="gated-gelu")


def bart(layers):
    sizes = {"d_model": HIDDEN, "attention_dropout": 0.1}
    for part in ("encoder", "decoder"):
        sizes |= {f"{part}_layers": layers, f"{part}_ffn_dim": INNER, f"{part}_attention_heads": 4}
    return BartForConditionalGeneration(BartConfig(vocab_size=WORDS, **sizes))


def kept(model, precision, **inputs):
    """Bytes of all that a forward pass saves, each storage once, the model's own weights left out."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    found = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.randint(WORDS, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, LENGTH // 2 :] = 0  # padding
    mixed = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), mixed:
        output = model(input_ids=ids, attention_mask=mask, **inputs)
    assert output.logits.requires_grad
    return sum(found.values())


def said_of_real(make, precision, peft, task="CAUSAL_LM", heads=(), answer=0):
    """What is said of what is really kept, by the two layers (of each kind) more. Embeddings and head drop out of the difference."""
    sizes = []
    for layers in (1, 3):
        model = make(layers)
        shape = shape_of(
            model.config.to_dict(), {name: tuple(weight.shape) for name, weight in model.named_parameters()}
        )
        model = model.to(torch.bfloat16) if peft is not None and precision == "bf16" else model
        model = add_adapter(model, peft, 0, task, heads) if peft else model
        inputs = {"decoder_input_ids": torch.ones(ROWS, answer, dtype=torch.long)} if answer else {}
        inputs |= {} if task == "SEQ_CLS" else {"use_cache": False}
        row = LENGTH + answer
        training = Training(shape, ROWS * row, peft, precision=precision, row=row)
        sizes.append((kept(model, precision, **inputs), activations(training)))
    real, said = (more - fewer for fewer, more in zip(*sizes, strict=True))
    return said / real


@pytest.mark.parametrize("method", [None, "lora", "bottleneck", "prefix"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("make", [llama, gpt2, opt, gpt_neox])
def test_two_layers_more_keep_as_much_more_as_is_said(make, precision, method):
    options = {"bottleneck": {"width": 8}, "prefix": {"virtual_tokens": 4}}.get(method or "", {})
    peft = PeftConfig(method=method, **options) if method else None
    assert (0.78 if method == "bottleneck" else 0.9) < said_of_real(make, precision, peft) < 1.15


@pytest.mark.parametrize("peft", [None, PeftConfig()], ids=["full", "lora"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("make", [bert, distilbert])
def test_encoders_keep_what_is_said(make, precision, peft):
    heads = ["classifier", *(["pre_classifier"] if make is distilbert else [])]
    assert 0.97 < said_of_real(make, precision, peft, "SEQ_CLS", heads) < 1.03


@pytest.mark.parametrize("answer", [LENGTH // 4, LENGTH])
@pytest.mark.parametrize("peft", [None, PeftConfig()], ids=["full", "lora"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("make", [t5, t5_gated, bart])
def test_encoder_decoders_keep_what_is_said(make, precision, peft, answer):
    assert 0.9 < said_of_real(make, precision, peft, "SEQ_2_SEQ_LM", answer=answer) < 1.15


@pytest.mark.parametrize("make", [gpt2, bert])
def test_scores_are_kept_where_attention_drops_some_only(make):
    """Three for each head and token that is read, whether in fp32 or bf16; the layer at work has its own."""
    shape = shape_of(make(2).config.to_dict(), {})
    long, short = (Training(shape, 1024, row=row, precision="bf16") for row in (1024, 256))
    assert activations(long) - activations(short) == 1024 * (2 + 1) * 3 * 4 * (1024 - 256) * 4
    long, short = (replace(training, dropout=False) for training in (long, short))
    assert activations(long) - activations(short) == 1024 * (2 + 1) * (1024 - 256) * 4  # the mask


@pytest.mark.parametrize("head", [32, 96])
def test_padding_costs_a_mask_and_repeated_keys(head):
    """96: queries of another size than the states."""
    sizes = []
    for layers in (1, 3):
        options = {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": layers, "head_dim": head}
        config = LlamaConfig(vocab_size=WORDS, num_attention_heads=4, num_key_value_heads=2, **options)
        model = LlamaForCausalLM(config)
        shape = shape_of(config.to_dict(), {name: tuple(weight.shape) for name, weight in model.named_parameters()})
        sizes.append((kept(model, "fp32", use_cache=False), activations(Training(shape, ROWS * LENGTH, row=LENGTH))))
    real, said = (more - fewer for fewer, more in zip(*sizes, strict=True))
    assert said / real == pytest.approx(1, abs=0.05)


def test_activations_grow_with_tokens_and_logits_stay_within_their_tiles():
    model = llama(2)
    shape = shape_of(model.config.to_dict(), {name: tuple(weight.shape) for name, weight in model.named_parameters()})
    training = Training(shape, 1000, head=False)
    assert activations(replace(training, tokens=3000)) == 3 * activations(training)
    large = replace(training, shape=replace(shape, vocabulary=128_000), tokens=8192)
    assert activations(replace(large, head=True)) - activations(large) == 4096 * 32768 * 4
