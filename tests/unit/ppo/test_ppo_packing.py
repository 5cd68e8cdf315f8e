"""Packing changes what is computed per second, and nothing else."""

import pytest
import torch
from torch import nn
from transformers import GPTJConfig, GPTJModel, MistralConfig, MistralForCausalLM

from alignment.generation.engine import Completion
from alignment.ppo import maths
from alignment.ppo.arrangements import critic_from_policy, critic_from_reward_model
from alignment.ppo.networks import Policy
from alignment.ppo.packing import allow_packing, packs


def grids(function, completions, packed, tokens=10_000):
    """[B, T] by whatever passes `tokens` asks for."""
    width = max(len(completion.response_ids) for completion in completions)
    whole = torch.zeros(len(completions), width)
    for pack in packs(completions, range(len(completions)), width=width, tokens=tokens, packed=packed, device="cpu"):
        whole[pack.rows] = pack.grid(function(pack))
    return whole


def logprobs_of(policy):
    return lambda pack: policy(pack, 0.7).logprobs


def one_by_one(model, completions):
    """The textbook way: each sequence alone, no mask, logits of position t - 1 for token t."""
    rows = []
    for completion in completions:
        ids = torch.tensor([completion.prompt_ids + completion.response_ids])
        logprobs = (model(ids, use_cache=False).logits[0, :-1] / 0.7).log_softmax(-1)
        own = logprobs.gather(1, ids[0, 1:, None])[:, 0]
        rows.append(own[len(completion.prompt_ids) - 1 :])
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("tokens", [10_000, 40])
@torch.no_grad()
def test_packed_padded_and_single_sequences_give_the_same_logprobs(tiny_model, answers, kv_heads, tokens):
    policy, completions = Policy(tiny_model(kv_heads)), answers(37)
    expected = one_by_one(policy.lm, completions)
    padded = grids(logprobs_of(policy), completions, packed=False, tokens=tokens)
    assert allow_packing(policy.trunk)
    packed = grids(logprobs_of(policy), completions, packed=True, tokens=tokens)
    torch.testing.assert_close(padded, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(packed, expected, atol=1e-5, rtol=0)


def left_padded(model, completions):
    """As generation lays batches out: padding first, positions counted from the first real token."""
    longest = max(len(completion.prompt_ids + completion.response_ids) for completion in completions)
    sequences = [completion.prompt_ids + completion.response_ids for completion in completions]
    ids = torch.tensor([[0] * (longest - len(sequence)) + sequence for sequence in sequences])
    mask = torch.tensor([[0] * (longest - len(sequence)) + [1] * len(sequence) for sequence in sequences])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
    logprobs = (logits[:, :-1] / 0.7).log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    rows = [logprobs[row, -len(completion.response_ids) :] for row, completion in enumerate(completions)]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


@pytest.mark.parametrize("layout", ["one by one", "left-padded", "right-padded", "packed", "packed in several passes"])
def test_logprobs_loss_and_gradients_are_the_same_in_every_layout(tiny_model, answers, layout):
    completions, generator = answers(20), torch.Generator().manual_seed(3)
    mask = nn.utils.rnn.pad_sequence([torch.ones(len(c.response_ids)) for c in completions], batch_first=True).bool()
    advantages, shift = (torch.randn(mask.shape, generator=generator) for _ in range(2))
    double = tiny_model().double()
    exact = one_by_one(double, completions)
    old = exact.detach().float() + 0.3 * shift
    ratio = (exact - old).exp()
    losses = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    (exact_loss := losses[mask].mean()).backward()

    policy, packed = Policy(tiny_model()), layout.startswith("packed")
    if packed:
        assert allow_packing(policy.trunk)
    if layout in ("one by one", "left-padded"):
        logprobs = (one_by_one if layout == "one by one" else left_padded)(policy.lm, completions)
    else:
        tokens = 40 if layout.endswith("passes") else 10_000
        logprobs = grids(logprobs_of(policy), completions, packed, tokens)
    loss, _ = maths.policy_loss(logprobs, old, advantages, mask, clip=0.2)
    loss.backward()
    torch.testing.assert_close(logprobs[mask], exact[mask].float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss, exact_loss.float(), atol=1e-5, rtol=0)
    for parameter, other in zip(policy.parameters(), double.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad.float(), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_neighbours_in_a_pack_do_not_see_each_other(tiny_model, answers):
    policy, completions = Policy(tiny_model()), answers(5)
    allow_packing(policy.trunk)
    before = grids(logprobs_of(policy), completions, packed=True)
    other = Completion([7] * len(completions[2].prompt_ids), [8] * len(completions[2].response_ids), [], True)
    after = grids(logprobs_of(policy), [*completions[:2], other, *completions[3:]], packed=True)
    assert torch.equal(before[[0, 1, 3, 4]], after[[0, 1, 3, 4]])
    assert not torch.equal(before[2], after[2])


@torch.no_grad()
def test_a_sliding_window_is_that_of_the_model_alone(answers):
    """Two layers with a window of 4 see 7 tokens back, no further; the reference is the model's own attention."""
    torch.manual_seed(0)
    options = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 4, "initializer_range": 0.3}
    policy = Policy(MistralForCausalLM(MistralConfig(**options, **heads, attn_implementation="eager")).eval())
    completions = answers(20)
    assert max(len(c.prompt_ids + c.response_ids) for c in completions) > 12
    expected = one_by_one(policy.lm, completions)
    assert allow_packing(policy.trunk)
    packed = grids(logprobs_of(policy), completions, packed=True)
    torch.testing.assert_close(packed, expected, atol=1e-5, rtol=0)


def test_no_pass_holds_more_tokens_than_allowed(answers):
    completions = answers(30)
    made = list(packs(completions, range(30), width=12, tokens=50, packed=True, device="cpu"))
    assert sorted(row for pack in made for row in pack.rows) == list(range(30))
    assert all(pack.input_ids.shape[1] <= 50 for pack in made)
    padded = list(packs(completions, range(30), width=12, tokens=50, packed=False, device="cpu"))
    assert all(pack.input_ids.numel() <= 50 for pack in padded)


def test_a_model_with_attention_of_its_own_is_not_packed():
    model = GPTJModel(GPTJConfig(vocab_size=40, n_embd=16, n_layer=1, n_head=2, rotary_dim=4, n_positions=32))
    assert not allow_packing(model)


@torch.no_grad()
def test_values_are_those_of_the_prefix_before_each_token(tiny_model, answers):
    critic, completions = critic_from_policy(tiny_model(), seed=1), answers(6)
    allow_packing(critic.trunk)
    values = grids(critic, completions, packed=True)
    alone = tiny_model().base_model
    for row, completion in enumerate(completions):
        for t in range(len(completion.response_ids)):
            prefix = torch.tensor([completion.prompt_ids + completion.response_ids[:t]])
            expected = critic.head(alone(prefix).last_hidden_state[0, -1])
            torch.testing.assert_close(values[row, t], expected[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_critic_from_the_reward_model_speaks_in_normalised_scores(tiny_model):
    reward = nn.Module()
    reward.base_model = tiny_model().base_model
    reward.score = nn.Linear(32, 1, bias=False)
    allow_packing(reward.base_model)
    completion = Completion([4, 5], [6], [], True)
    raw_score = reward.score(tiny_model().base_model(torch.tensor([[4, 5]])).last_hidden_state[0, -1])
    value = grids(critic_from_reward_model(reward, mean=3.0, deviation=2.0), [completion], packed=True)
    torch.testing.assert_close(value[0, 0], (raw_score[0] - 3.0) / 2.0, atol=1e-5, rtol=0)


def test_a_fresh_head_has_the_declared_scale(tiny_model):
    weights = torch.cat([critic_from_policy(tiny_model(), seed).head.weight[0] for seed in range(40)])
    assert weights.std().item() == pytest.approx(1 / 33**0.5, rel=0.1)
    assert critic_from_policy(tiny_model(), 0).head.bias.item() == 0
