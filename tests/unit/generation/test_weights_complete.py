import pytest
import torch

from alignment.generation.weights import complete, outline_of


def test_the_outline_names_every_parameter_of_the_model(tiny_folder):
    from transformers import AutoModelForCausalLM

    outline = outline_of(tiny_folder)
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    assert outline.parameters == {name for name, _ in model.named_parameters()}
    assert "lm_head.weight" not in outline.parameters  # tied to the embedding
    assert outline.linear == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_a_weight_that_is_not_sent_is_told():
    weights = {"a": torch.zeros(1, requires_grad=True), "b": torch.ones(1)}
    assert [name for name, _ in complete(weights.items(), {"a", "b"})] == ["a", "b"]
    assert not any(weight.requires_grad for _, weight in complete(weights.items(), {"a"}))
    with pytest.raises(ValueError, match="1 of 3 weights were not sent, among them c"):
        list(complete(weights.items(), {"a", "b", "c"}))
