import json

import pytest

from alignment.core.errors import ModelError
from alignment.generation.adapters import adapter_name, allotted_rank, check_adapter, lora_options
from alignment.generation.weights import outline_of


@pytest.fixture(scope="module")
def base(tiny_folder):
    from transformers import AutoModelForCausalLM

    return tiny_folder, AutoModelForCausalLM.from_pretrained(tiny_folder)


def saved(base, folder, **options):
    from peft import LoraConfig, get_peft_model

    options = {"r": 4, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"} | options
    model = get_peft_model(base[1], LoraConfig(**options))
    model.save_pretrained(folder)
    model.unload()
    return folder


def test_plain_and_rank_stabilised_lora_are_served(base, tmp_path):
    outline = outline_of(base[0])
    check_adapter(saved(base, tmp_path / "plain"), 4, outline)
    check_adapter(saved(base, tmp_path / "stabilised", use_rslora=True), 8, outline)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, "vLLM does not serve DoRA(.|\n)*send merged weights"),
        ({"rank_pattern": {"q_proj": 2}}, "adapters with rank_pattern"),
        ({"alpha_pattern": {"q_proj": 2}}, "adapters with alpha_pattern"),
        ({"modules_to_save": ["norm"]}, "adapters with modules_to_save"),
        ({"lora_bias": True}, "biases in adapters"),
        ({"r": 6}, "rank 6(.|\n)*at most 4(.|\n)*larger adapter_rank"),
        ({"target_modules": ["q_proj", "lm_head"]}, "this adapter changes lm_head"),
    ],
)
def test_what_vllm_would_refuse_hang_on_or_leave_out_is_refused_before(base, tmp_path, options, message):
    with pytest.raises(ModelError, match=message):
        check_adapter(saved(base, tmp_path, **options), 4, outline_of(base[0]))


def test_other_kinds_of_adapter_and_no_adapter_are_refused(base, tmp_path):
    outline = outline_of(base[0])
    with pytest.raises(ModelError, match="no readable adapter"):
        check_adapter(tmp_path, 4, outline)
    folder = saved(base, tmp_path / "adapter")
    with pytest.raises(ModelError, match="without room for adapters"):
        check_adapter(folder, None, outline)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "LOHA"}))
    with pytest.raises(ModelError, match="adapters of type LOHA"):
        check_adapter(folder, 4, outline)


def test_an_adapters_name_follows_its_weights_and_its_scale(base, tmp_path):
    one = saved(base, tmp_path / "one", init_lora_weights=False)
    other = saved(base, tmp_path / "other", init_lora_weights=False)
    assert adapter_name(one) != adapter_name(other)
    (other / "adapter_model.safetensors").write_bytes((one / "adapter_model.safetensors").read_bytes())
    assert adapter_name(one) == adapter_name(other)
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 99}))
    assert adapter_name(one) != adapter_name(other)


def test_room_for_adapters_is_one_of_the_sizes_that_vllm_has(base):
    assert [allotted_rank(rank) for rank in (1, 2, 8, 9, 500)] == [1, 8, 8, 16, 512]
    with pytest.raises(ModelError, match="rank 513"):
        allotted_rank(513)
    assert lora_options(None, outline_of(base[0])) == {}
    assert "lm_head" not in lora_options(4, outline_of(base[0]))["lora_target_modules"]
