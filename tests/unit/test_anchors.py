"""Penalties that hold a model: each by hand, and that each keeps a small real training nearer to its start."""

import math
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn

from alignment.anchors import KlAnchor, WeightAnchor, fisher, kl_sum
from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.core.errors import ModelError
from alignment.data.rows import write_rows
from alignment.models.config import PeftConfig
from alignment.models.encoding import Encoded
from alignment.models.load import load_causal_lm, load_to_read
from alignment.preference.config import DPOConfig
from alignment.preference.stage import run_dpo
from alignment.sft.config import SFTConfig
from alignment.sft.stage import run

NEW = [{"prompt": "the cow", "completion": " is red"}, {"prompt": "who runs", "completion": " no dog runs yes"}]
OLD = [{"text": "the small dog sleeps and the big cat eats"}, {"text": "why was the cow good"}]


class Two(nn.Module):
    """Two weights, and one that is frozen."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([2.0]))
        self.c = nn.Parameter(torch.tensor([9.0]), requires_grad=False)


@pytest.mark.parametrize(
    ("importance", "gradients", "distance"),
    [
        (None, (1.5 + 0.1 * 3, 0.1 * -1), 0.5 * (9 + 1)),
        ({"a": torch.tensor([2.0]), "b": torch.tensor([0.0])}, (1.5 + 0.1 * 2 * 3, 0.0), 0.5 * 2 * 9),
    ],
    ids=["l2", "ewc"],
)
def test_the_pull_on_weights_by_hand(importance, gradients, distance):
    """a goes from 1 to 4 and has a gradient of 1.5; b goes from 2 to 1 and has none to speak of."""
    model = Two()
    anchor = WeightAnchor(model, 0.1, importance)
    with torch.no_grad():
        model.a += 3
        model.b -= 1
    model.a.grad, model.b.grad = torch.tensor([1.5]), torch.tensor([0.0])
    anchor.pull()
    assert (model.a.grad.item(), model.b.grad.item()) == pytest.approx(gradients)
    assert model.c.grad is None
    assert anchor.distance() == pytest.approx(distance)


def test_kl_of_two_words_by_hand():
    """Heads that read logits (0, ln 3) and (0, 0): p = (1/4, 3/4), q = (1/2, 1/2)."""
    p_head, q_head = nn.Linear(1, 2, bias=False), nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        p_head.weight.copy_(torch.tensor([[0.0], [math.log(3)]]))
        q_head.weight.zero_()
    states = torch.ones(1, 1, requires_grad=True)
    value = kl_sum(torch.ones(1, 1), p_head, states, q_head)
    assert value.item() == pytest.approx(0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5))
    value.backward()
    assert q_head.weight.grad[:, 0].tolist() == pytest.approx([0.5 - 0.25, 0.5 - 0.75])  # q - p
    assert p_head.weight.grad is None


def test_kl_in_blocks_is_kl_at_once(monkeypatch):
    torch.manual_seed(0)
    heads, states = [nn.Linear(6, 11, bias=False) for _ in range(2)], torch.randn(2, 9, 6)
    logs = [head(state).log_softmax(-1) for head, state in zip(heads, states, strict=True)]
    expected = (logs[0].exp() * (logs[0] - logs[1])).sum()
    monkeypatch.setattr("alignment.anchors._LOGITS_AT_ONCE", 4 * 11)
    torch.testing.assert_close(kl_sum(states[0], heads[0], states[1], heads[1]), expected)


class Biased(nn.Module):
    """Says the same distribution softmax(b) everywhere: the Fisher information of b is p (1 - p), whatever the text."""

    def __init__(self):
        super().__init__()
        self.b = nn.Parameter(torch.tensor([0.0, math.log(3)]))
        self.device = torch.device("cpu")

    def forward(self, ids, use_cache):
        return SimpleNamespace(logits=self.b.expand(*ids.shape, 2))


def test_the_fisher_information_of_one_token_by_hand():
    found = fisher(Biased(), [Encoded([0, 0], [False, True])] * 3000, seed=1)["b"]
    assert found.tolist() == pytest.approx([0.25 * 0.75] * 2, rel=0.05)  # its own deviation is 1.1 %


def test_the_fisher_information_of_a_text_is_that_of_its_tokens():
    """Rows of 4 counted tokens: squares of sums over independent draws have the sum of the variances as their mean."""
    rows = [Encoded([0] * 5, [True] * 5)] * 2000
    assert fisher(Biased(), rows, seed=1)["b"].tolist() == pytest.approx([0.25 * 0.75] * 2, rel=0.1)


def test_half_the_fisher_distance_is_the_kl_of_a_small_step(tiny_folder):
    """What makes ewc's coefficient a number of its own: along one weight 1/2 F d^2 is the KL a token."""
    model, start = load_causal_lm(tiny_folder), load_to_read(tiny_folder)
    ids = torch.tensor([[5, 6, 9, 11, 14, 16, 7, 8]])
    importance = fisher(model, [Encoded(ids[0].tolist(), [True] * 8)] * 300, seed=0)
    name, place = "model.layers.1.mlp.down_proj.weight", (3, 5)
    with torch.no_grad():
        model.get_parameter(name)[place] += 0.3
        logs = [each.eval()(ids).logits[0, :-1].double().log_softmax(-1) for each in (start, model)]
    kl = (logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean().item()
    assert 0.5 * importance[name][place].item() * 0.3**2 == pytest.approx(kl, rel=0.4)
    assert kl > 1e-5


@pytest.mark.parametrize("peft", [None, PeftConfig(r=4), PeftConfig(method="prompt", virtual_tokens=3)])
def test_the_kl_to_the_start_of_a_batch_is_that_of_its_learned_tokens(tiny_folder, peft):
    model, start = load_causal_lm(tiny_folder, peft=peft), load_to_read(tiny_folder)
    anchor = KlAnchor(model, None if peft is not None and peft.merges else start, coefficient=2.0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)))
    ids = torch.tensor([[5, 6, 9, 11, 14], [7, 8, 12, 0, 0]])
    mask = torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    labels = torch.tensor([[-100, -100, 9, 11, 14], [-100, 8, 12, -100, -100]])
    model(input_ids=ids, attention_mask=mask)
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    loss = anchor.loss(inputs, 5, torch.autocast("cpu", enabled=False))
    with torch.no_grad():
        logs = [each(input_ids=ids, attention_mask=mask).logits.log_softmax(-1) for each in (start, model.eval())]
    kl = (logs[0].exp() * (logs[0] - logs[1])).sum(-1)[:, :-1][labels[:, 1:] != -100]
    assert len(kl) == 5 and kl.min() > 0
    assert loss.item() == pytest.approx(2.0 * kl.mean().item(), rel=1e-4)
    assert anchor.divergence == pytest.approx(kl.mean().item(), rel=1e-4)
    loss.backward()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert sum(weight.grad.abs().sum().item() for weight in trained if weight.grad is not None) > 0


def train(tiny_folder, folder, **settings):
    folder.mkdir(exist_ok=True)
    for name, rows in (("new", NEW), ("old", OLD)):
        write_rows(rows, folder / f"{name}.jsonl")
    base = {"model": {"path": str(tiny_folder)}, "data": {"path": str(folder / "new.jsonl")}, "batch_size": 2}
    base |= {"steps": 25, "learning_rate": 3e-3, "warmup": 0, "schedule": "constant"}
    if settings.get("anchor", {}).get("method") == "ewc":
        settings["anchor"]["data"] = {"path": str(folder / "old.jsonl")}
    summary = run(
        SFTConfig.model_validate(base | settings),
        {"model": Artifact("model", "m", tiny_folder)},
        Context.at(folder / "out"),
    )
    return summary, folder / "out"


def distance(tiny_folder, folder):
    old, new = (load_file(each / "model.safetensors") for each in (tiny_folder, folder))
    return sum((new[name] - old[name]).square().sum().item() for name in old) ** 0.5


@torch.no_grad()
def divergence(tiny_folder, folder, texts):
    """Mean KL(start || new) a position."""
    models = [load_to_read(each) for each in (tiny_folder, folder)]
    logs = [[model(torch.tensor([ids])).logits[0].log_softmax(-1) for ids in texts] for model in models]
    return sum((p.exp() * (p - q)).sum(-1).mean().item() for p, q in zip(*logs, strict=True)) / len(texts)


def test_each_anchor_keeps_a_training_nearer_to_its_start_in_its_own_measure(tiny_folder, tmp_path):
    free, away = train(tiny_folder, tmp_path / "free")
    old = [[5, 16, 7, 18, 19, 5, 13, 8, 17], [20, 10, 5, 6, 15]]
    new = [[5, 6, 9, 11], [22, 17, 24, 7, 17, 23]]
    for anchor, measure in [
        ({"method": "l2", "coefficient": 0.1}, lambda folder: distance(tiny_folder, folder)),
        ({"method": "ewc", "coefficient": 100.0}, lambda folder: divergence(tiny_folder, folder, old)),
        ({"method": "kl", "coefficient": 1.0}, lambda folder: divergence(tiny_folder, folder, new)),
    ]:
        held, near = train(tiny_folder, tmp_path / anchor["method"], anchor=anchor)
        assert measure(near) < 0.7 * measure(away), anchor
        assert held["anchor_kl" if anchor["method"] == "kl" else "anchor_distance"] > 0
        assert "anchor_kl" not in free


def test_an_accumulated_step_is_pulled_once(tiny_folder, tmp_path):
    anchor = {"method": "l2", "coefficient": 0.5}
    one, whole = train(tiny_folder, tmp_path / "a", anchor=anchor, steps=4, group_by_length=False)
    two, parts = train(
        tiny_folder,
        tmp_path / "b",
        anchor=anchor,
        steps=4,
        batch_size=1,
        gradient_accumulation=2,
        group_by_length=False,
    )
    assert two["anchor_distance"] == pytest.approx(one["anchor_distance"], rel=1e-3)
    assert distance(whole, parts) < 1e-3 * distance(tiny_folder, whole)


def test_kl_is_measured_over_an_accumulated_step(tiny_folder, tmp_path):
    anchor = {"method": "kl", "coefficient": 3.0}
    _, whole = train(tiny_folder, tmp_path / "a", anchor=anchor, steps=4, group_by_length=False)
    _, parts = train(
        tiny_folder,
        tmp_path / "b",
        anchor=anchor,
        steps=4,
        batch_size=1,
        gradient_accumulation=2,
        group_by_length=False,
    )
    assert distance(whole, parts) < 1e-2 * distance(tiny_folder, whole)


def test_dpo_can_be_held_by_its_weights(tiny_folder, tmp_path):
    pairs = [
        {"prompt": "the cow", "chosen": " is red", "rejected": " was"},
        {"prompt": "who", "chosen": " runs", "rejected": " no"},
    ]
    write_rows(pairs, tmp_path / "pairs.jsonl")
    base = {"model": {"path": "m"}, "data": {"path": str(tmp_path / "pairs.jsonl")}, "batch_size": 2, "steps": 20}
    far = {}
    for coefficient in (1e-9, 1.0):
        anchor = {"method": "l2", "coefficient": coefficient}
        config = DPOConfig.model_validate(base | {"learning_rate": 1e-3, "anchor": anchor})
        out = tmp_path / str(coefficient)
        summary = run_dpo(config, {"model": Artifact("model", "m", tiny_folder)}, Context.at(out))
        far[coefficient] = distance(tiny_folder, out)
        assert summary["anchor_distance"] == pytest.approx(0.5 * far[coefficient] ** 2, rel=1e-3)
    assert far[1.0] < 0.7 * far[1e-9]


def test_anchors_that_hold_nothing_are_refused(tiny_folder, tmp_path):
    base = {"model": {"path": "m"}, "data": {"path": "d"}, "steps": 1}
    for kind, settings, message in [
        (SFTConfig, {"anchor": {"method": "ewc", "coefficient": 1.0}}, "ewc has to know which old rows"),
        (SFTConfig, {"anchor": {"method": "l2", "coefficient": 1.0, "data": {"path": "o"}}}, "l2 reads no old rows"),
        (SFTConfig, {"anchor": {"method": "l2", "coefficient": 1.0}, "peft": {"r": 4}}, "l2 holds nothing"),
        (DPOConfig, {"anchor": {"method": "kl", "coefficient": 1.0}}, "by beta"),
    ]:
        with pytest.raises(ValidationError, match=message):
            kind.model_validate(base | settings)

    from transformers import Gemma2Config, Gemma2ForCausalLM

    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 16,
    }
    capped = Gemma2ForCausalLM(Gemma2Config(vocab_size=30, num_key_value_heads=2, final_logit_softcapping=1.0, **sizes))
    with pytest.raises(ModelError, match="scales or caps its logits"):
        KlAnchor(capped, capped, 1.0)
