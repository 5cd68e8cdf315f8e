"""Shapes from files, weights counted as the model itself counts them, parts by hand, and advice."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import save_small

from alignment.classify.config import ClassifyConfig
from alignment.core.context import Context
from alignment.core.errors import ModelError
from alignment.memory.announce import announce_memory
from alignment.memory.estimate import Memory, Training, estimate
from alignment.memory.shape import Shape, llama_weights, shape_in
from alignment.memory.stages import memory_of, training_of
from alignment.memory.words import GIB, advice, told
from alignment.models.config import FreezeConfig, PeftConfig, QuantizationConfig
from alignment.models.load import load_causal_lm, load_tokenizer, parameter_counts, save_model
from alignment.models.seq2seq import load_seq2seq
from alignment.ppo.config import PPOConfig
from alignment.preference.config import DPOConfig
from alignment.seq2seq.config import Seq2SeqConfig
from alignment.sft.config import SFTConfig
from reward.config import RewardConfig

SMALL = Shape("llama", 100, 300, 100, 100, 2, 1000, 64, llama_weights(1000, 100, 300, 2, 100))
COUNT = 1000 * 100 + 2 * (4 * 100 * 100 + 3 * 100 * 300 + 2 * 100) + 100


def test_a_folder_is_read_without_its_weights(tiny_folder, tmp_path):
    shape = shape_in(tiny_folder)
    assert (shape.hidden, shape.feed_forward, shape.keys, shape.layers, shape.vocabulary, shape.context) == (
        64, 128, 64, 2, 26, 64,
    )  # fmt: skip
    assert shape.parameters == sum(p.numel() for p in load_causal_lm(tiny_folder).parameters())
    assert len(shape.linear) == 14
    weights = load_file(tiny_folder / "model.safetensors")
    (tmp_path / "config.json").write_text((tiny_folder / "config.json").read_text())
    for number, names in enumerate((list(weights)[::2], list(weights)[1::2]), 1):
        save_file({name: weights[name] for name in names}, tmp_path / f"model-0000{number}-of-00002.safetensors")
    assert shape_in(tmp_path).weights == shape.weights  # in shards
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="its sizes cannot be read: none of hidden_size"):
        shape_in(tmp_path)


@pytest.mark.parametrize(
    "peft",
    [
        None,
        PeftConfig(r=3),
        PeftConfig(method="rslora", target_modules=["q_proj", "v_proj"]),
        PeftConfig(method="dora", r=2),
        PeftConfig(method="ia3"),
        PeftConfig(method="prefix", virtual_tokens=5),
        PeftConfig(method="prompt", virtual_tokens=5),
        PeftConfig(method="ptuning", virtual_tokens=5),
        PeftConfig(method="bottleneck", width=6),
        PeftConfig(method="bottleneck", width=6, target_modules=["down_proj"]),
    ],
    ids=lambda peft: f"{peft.method} {peft.target_modules}" if peft else "full",
)
def test_trained_parameters_are_counted_as_the_model_counts_them(tiny_folder, tmp_path, peft):
    memory = estimate(Training(shape_in(tiny_folder), 10, peft))
    model = load_causal_lm(tiny_folder, peft=peft)
    assert {"trainable_parameters": memory.trainable, "parameters": memory.parameters} == parameter_counts(model)
    save_model(model, load_tokenizer(tiny_folder), tmp_path)
    assert shape_in(tmp_path).parameters == shape_in(tiny_folder).parameters  # merged, or the base beside the adapter


def test_frozen_weights_are_not_counted(tiny_folder):
    freeze = FreezeConfig(layers=1)
    real = parameter_counts(load_causal_lm(tiny_folder, freeze=freeze))
    assert estimate(Training(shape_in(tiny_folder), 10, freeze=freeze)).trainable == real["trainable_parameters"]


def test_the_parts_of_full_training_by_hand():
    memory = estimate(Training(SMALL, tokens=10))
    assert memory.parts["weights"] == memory.parts["gradients"] == 4 * COUNT
    assert memory.parts["optimiser"] == 8 * COUNT
    layer = 4 * (4 * 300 + 2 * 100 + 8 * 100)
    at_work = 4 * (3 * 300 + 3 * 100) + 4 * 3 * 100
    assert memory.parts["activations"] == round(
        1.25 * (10 * (2 * layer + at_work) + 10 * 4096)
    )  # a row of 1,000 logits fits a page
    gradients_are_larger = memory.parts["gradients"]
    assert memory.peak == 12 * COUNT + gradients_are_larger + memory.parts["libraries"]


def test_bits_and_precision_decide_what_is_held():
    linear = 2 * (4 * 100 * 100 + 3 * 100 * 300)
    lora = PeftConfig(r=1)
    added = 2 * (4 * 200 + 3 * 400)

    def weights(**options):
        return estimate(Training(SMALL, 10, lora, **options)).parts["weights"] - 4 * added

    assert weights() == 4 * COUNT
    assert weights(precision="bf16") == 2 * COUNT
    assert weights(quantization=QuantizationConfig(bits=8)) == linear + 4 * (COUNT - linear)
    assert weights(quantization=QuantizationConfig(bits=4, rest="bf16")) == round(linear * 4.127 / 8) + 2 * (
        COUNT - linear
    )
    assert (
        estimate(Training(SMALL, 10, lora, precision="bf16")).merging == 4 * COUNT
    )  # in fp32, on the unquantised base


def test_what_each_stage_holds():
    base = {"model": {"path": "m"}, "data": {"path": "d"}, "steps": 1, "batch_size": 4}

    def of(config, longest=20):
        return training_of(config, SMALL, longest)

    assert of(SFTConfig.model_validate(base)).tokens == 80
    assert of(SFTConfig.model_validate(base | {"max_length": 16})).tokens == 64
    assert of(SFTConfig.model_validate(base), 1000).tokens == 4 * 64  # the context
    held = SFTConfig.model_validate(base | {"anchor": {"method": "ewc", "coefficient": 1.0, "data": {"path": "o"}}})
    assert (of(held).anchors, of(held).references) == (2, 0)
    held = SFTConfig.model_validate(base | {"anchor": {"method": "kl", "coefficient": 1.0}})
    assert (of(held).anchors, of(held).references) == (0, 1)
    dpo = DPOConfig.model_validate(base)
    assert (of(dpo).tokens, of(dpo).references) == (160, 1)
    assert of(DPOConfig.model_validate(base | {"peft": {"r": 4}})).references == 0  # the base without its adapter
    assert of(DPOConfig.model_validate(base | {"peft": {"method": "bottleneck", "width": 4}})).references == 1
    reward = RewardConfig.model_validate({"model": {"path": "m"}, "data": {"path": "d"}, "batch_size": 4})
    assert (of(reward).tokens, of(reward).head) == (160, False)


def test_what_classifiers_and_encoder_decoders_hold():
    base = {"model": {"path": "m"}, "data": {"path": "d"}, "steps": 1, "batch_size": 4}
    classify = training_of(ClassifyConfig.model_validate(base), SMALL, 1000)
    assert (classify.tokens, classify.row, classify.head, classify.dropout) == (4 * 64, 64, False, True)

    def answering(**options):
        return training_of(Seq2SeqConfig.model_validate(base | options), SMALL, 1000)

    assert (answering().tokens, answering().head) == (4 * 1000, True)  # T5 reads more than the positions that it names
    assert answering(max_length=100).tokens == 4 * 200  # prompt and answer
    assert answering(max_length=100, max_answer_length=20).row == 120
    assert not training_of(DPOConfig.model_validate(base), SMALL, 1000).dropout


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [("bert", (32, 64, 32, 2, 2, 12)), ("distilbert", (32, 64, 32, 2, 2, 12)), ("t5", (32, 64, 32, 2, 2, 32))],
)
def test_encoders_and_encoder_decoders_are_read(tmp_path, kind, sizes):
    """Matrices in layers: T5's decoder has four more each, and its attention's embeddings of distances are none."""
    shape = shape_in(save_small(kind, tmp_path, ["the", "cow"]))
    assert (
        shape.hidden, shape.feed_forward, shape.queries, shape.layers, shape.dropping_heads, len(shape.linear),
    ) == sizes  # fmt: skip


@pytest.mark.parametrize("peft", [None, PeftConfig(r=3)], ids=["full", "lora"])
def test_t5_is_counted_as_the_model_counts_it(tmp_path, peft):
    save_small("t5", tmp_path, ["the", "cow"])
    memory = estimate(Training(shape_in(tmp_path), 10, peft))
    real = parameter_counts(load_seq2seq(tmp_path, peft=peft))
    assert {"trainable_parameters": memory.trainable, "parameters": memory.parameters} == real


@pytest.mark.parametrize(
    ("settings", "weights", "optimiser"),
    [
        ({}, 2 * 4, 2 * 8),
        ({"precision": "bf16"}, 2 * 2, 2 * (8 + 8)),  # fp32 masters with their gradients
        ({"arrangement": "value_head", "critic": {"init": "policy"}}, 4, 8),
    ],
    ids=["separate", "separate in bf16", "value head"],
)
def test_ppo_holds_the_models_of_its_arrangement(settings, weights, optimiser):
    base = {"model": {"path": "m"}, "reward": {"path": "r"}, "prompts": {"path": "p"}}
    config = PPOConfig.model_validate(base | settings)
    memory = memory_of(config, training_of(config, SMALL, 10))
    assert memory.parts["weights"] == weights * COUNT
    assert memory.parts["optimiser"] == optimiser * COUNT
    assert memory.parts["references"] == 2 * COUNT * (2 if "precision" in settings else 4)


def test_ppo_on_a_shared_base_trains_two_adapters():
    base = {"model": {"path": "m"}, "reward": {"path": "r"}, "prompts": {"path": "p"}, "arrangement": "shared_base"}
    config = PPOConfig.model_validate(base | {"peft": {"r": 1}, "critic": {"init": "policy"}})
    memory = memory_of(config, training_of(config, SMALL, 10))
    added = 2 * (4 * 200 + 3 * 400)
    assert memory.trainable == 2 * added
    assert memory.parts["weights"] == 4 * COUNT + 4 * 2 * added
    assert memory.parts["references"] == 4 * COUNT  # the reward model; the reference is the base


def advised(training, machine_gib):
    memory = estimate(training)
    return advice(training, memory, machine_gib * GIB)


def test_advice_fits_the_machine():
    wide = Shape("llama", 4096, 11008, 4096, 4096, 32, 32000, 4096, llama_weights(32000, 4096, 11008, 32, 4096))
    assert 6.5e9 < wide.parameters < 6.8e9
    full, lora = Training(wide, 512), Training(wide, 512, PeftConfig(), precision="bf16")
    few = Training(wide, 512, PeftConfig(), QuantizationConfig(bits=4), precision="bf16")
    assert advised(full, 24) == "too large: train an adapter: peft: {method: lora}"
    assert advised(full, 200) == "fits"
    assert advised(lora, 24).startswith("too large: hold the base in few bits")
    assert estimate(few).parts["weights"] < 5 * GIB
    long = Training(wide, 64 * 2048, PeftConfig(), QuantizationConfig(bits=4), precision="bf16")
    assert "lower batch_size and raise gradient_accumulation" in advised(long, 80)
    assert advised(full, 110).startswith("tight")


def test_what_a_run_says():
    memory = Memory(1_000, 4_000, {"weights": 3 << 20, "libraries": 5 << 30})
    said = told(Training(SMALL, 1), memory, 24 * GIB)
    assert said == [
        "1,000 of 4,000 parameters are trained (25.00%)",
        "memory: weights 3 MiB, libraries 5.0 GiB; at most 5.0 GiB of 24.0 GiB: fits",
    ]


def test_the_estimate_needs_no_torch():
    import subprocess
    import sys

    program = "import sys, recipes.memory, alignment.memory.words; print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_run_announces_what_it_trains_and_the_summary_keeps_it(tiny_folder, tmp_path):
    from alignment.core.artifact import Artifact
    from alignment.data.rows import write_rows
    from alignment.sft.stage import run

    write_rows([{"prompt": "the cow", "completion": " is red"}] * 4, tmp_path / "rows.jsonl")
    settings = {"model": {"path": "m"}, "data": {"path": str(tmp_path / "rows.jsonl")}, "batch_size": 4, "steps": 1}
    config = SFTConfig.model_validate(settings | {"peft": {"r": 2}})
    summary = run(config, {"model": Artifact("model", "m", tiny_folder)}, Context.at(tmp_path / "out"))
    expected = estimate(training_of(config, shape_in(tiny_folder), 5))
    assert summary["estimated_memory_mib"] == round(expected.peak / 2**20, 1)
    assert summary["trainable_parameters"] == expected.trainable
    assert summary["memory_parts_mib"]["libraries"] == 45
    assert torch.is_tensor(load_file(tmp_path / "out" / "model.safetensors")["model.norm.weight"])
    assert json.dumps(summary)


def test_files_that_name_weights_without_the_models_own_part_are_understood(tmp_path):
    """As GPT-2's on the hub, which holds masks as well."""
    save_small("gpt2", tmp_path, ["the", "cow"])
    real = parameter_counts(load_causal_lm(tmp_path, freeze=FreezeConfig(patterns=["transformer.h.0.*"])))
    weights = {name.removeprefix("transformer."): v for name, v in load_file(tmp_path / "model.safetensors").items()}
    weights["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    found = estimate(Training(shape_in(tmp_path), 10, freeze=FreezeConfig(patterns=["transformer.h.0.*"])))
    assert {"trainable_parameters": found.trainable, "parameters": found.parameters} == real


@pytest.mark.parametrize("bytes_", [b"\xff" * 100, b"\x02" + b"\0" * 7 + b"[]", b"\x02" + b"\0" * 7 + b"{}"])
def test_damaged_weights_are_told_and_stop_no_training(tiny_folder, tmp_path, bytes_):
    (tmp_path / "config.json").write_text((tiny_folder / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(bytes_)
    with pytest.raises(ModelError, match="its sizes cannot be read"):
        shape_in(tmp_path)
    config = SFTConfig.model_validate({"model": {"path": "m"}, "data": {"path": "d"}, "steps": 1})
    assert announce_memory(config, tmp_path, 10, Context.at(tmp_path / "out")) == {}
