"""What keeps PPO from going wrong: controller, early stop, scores, warm-up, old texts, and the guard against NaN."""

import json
import math

import pytest
import torch
from arranged import ARRANGEMENTS, changed, judged, liked_scores, parameters_of, snapshot
from torch import nn

from alignment.core.errors import DataError
from alignment.ppo.config import PtxConfig, ScoreConfig
from alignment.ppo.maths import adapted_coefficient
from alignment.ppo.ptx import PtxTexts
from alignment.ppo.scores import ScoreStatistics, shaped
from alignment.ppo.update import _old_texts, _policy_and_critic, _step, optimise

pytestmark = pytest.mark.usefixtures("on_the_cpu")


# Scores


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_does_not_spoil_the_statistics(bad):
    statistics = ScoreStatistics()
    shaped(torch.tensor([1.0, bad, 3.0]), ScoreConfig(normalise="running"), statistics)
    shaped(torch.tensor([bad]), ScoreConfig(normalise="running"), statistics)
    assert (statistics.count, statistics.mean, statistics.deviation) == (2, 2.0, 1.0)


@pytest.mark.parametrize(("mode", "expected"), [("replace", -2.0), ("subtract", 1.0 - -2.0)])
def test_a_missing_eos_costs_after_the_scores_were_clipped(made, answers, mode, expected):
    learner, config = made(scores={"clip": 1.0}, missing_eos={"mode": mode, "value": -2.0})
    completions = answers(8)
    scores = judged(learner, completions, config, lambda c, rows: torch.full((len(c),), 9.0)).scores
    assert {True, False} == {completion.finished for completion in completions}
    assert scores.tolist() == [1.0 if completion.finished else expected for completion in completions]


# The KL


@pytest.mark.parametrize("kl", [math.nan, math.inf, -math.inf])
def test_a_kl_that_is_not_finite_leaves_a_finite_coefficient(kl):
    by_hand = {math.inf: 0.1 * (1 + 0.2 * 64 / 1000), -math.inf: 0.1 * (1 - 0.2 * 64 / 1000)}
    assert adapted_coefficient(0.1, kl, 6.0, 1000, 64) == pytest.approx(by_hand.get(kl, 0.1))


@pytest.mark.parametrize(("limit", "epochs"), [(1e-9, 1), (1e9, 4)])
def test_epochs_end_after_the_pass_that_went_too_far(made, answers, limit, epochs):
    completions = answers(8)
    learner, config = made(epochs=4, early_stop_kl=limit)
    metrics = optimise(judged(learner, completions, config), learner, config, step=0, seed=3)
    other, config = made(epochs=epochs)
    optimise(judged(other, completions, config), other, config, step=0, seed=3)
    assert metrics["update/epochs"] == epochs
    assert metrics["policy/approx_kl"] > 1e-9
    assert changed(snapshot(other), learner) == set()


def test_the_early_stop_looks_at_the_last_pass_alone(made, answers):
    completions = answers(8)
    learner, config = made(epochs=6, clip={"ratio": 10.0})
    rollout = judged(learner, completions, config)
    order = torch.Generator().manual_seed(3)
    passes = []
    for _ in range(6):  # pass by pass, as many optimisations of one epoch would make them
        kls = []
        for minibatch in torch.randperm(8, generator=order).split(4):
            kls.append(_policy_and_critic(rollout, minibatch.tolist(), learner, config, 0)["policy/approx_kl"])
            _step(learner, config, 0)
        passes.append(float(sum(kls) / 2))
    assert passes == sorted(passes)
    limit = (passes[2] + passes[3]) / 2  # the mean of the first four passes is below
    again, config = made(epochs=6, clip={"ratio": 10.0}, early_stop_kl=limit)
    metrics = optimise(judged(again, completions, config), again, config, step=0, seed=3)
    assert metrics["update/epochs"] == 4
    assert metrics["policy/approx_kl"] < limit


def test_the_entropy_bonus_adds_its_gradient_and_raises_entropy(made, answers):
    completions = answers(8)
    learner, config = made(entropy_bonus=0.5)
    rollout = judged(learner, completions, config)
    numbers = _policy_and_critic(rollout, range(8), learner, config, 0)
    found = {name: weight.grad.clone() for name, weight in learner.policy.named_parameters()}
    learner.policy.zero_grad()
    _policy_and_critic(rollout, range(8), learner, config.model_copy(update={"entropy_bonus": None}), 0)
    entropies = []
    learner.policy.lm.set_attn_implementation("eager")  # each answer alone, by transformers' own forward pass
    for completion in completions:
        ids = torch.tensor([completion.prompt_ids + completion.response_ids])
        logprobs = learner.policy.lm(ids).logits[0, len(completion.prompt_ids) - 1 : -1].log_softmax(-1)
        entropies.append(-(logprobs.exp() * logprobs).sum(-1))
    mean = torch.cat(entropies).mean()
    (-0.5 * mean).backward()
    assert numbers["policy/entropy"] == pytest.approx(mean.item(), abs=1e-5)
    for name, weight in learner.policy.named_parameters():
        torch.testing.assert_close(found[name], weight.grad, atol=1e-5, rtol=1e-4)

    fresh, config = made(entropy_bonus=10.0, epochs=4)
    before = judged(fresh, completions, config)
    optimise(before, fresh, config, step=0, seed=0)
    after = judged(fresh, completions, config)
    assert after.entropy[after.mask].mean() > before.entropy[before.mask].mean() + 0.02


# Warm-up of the critic


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_while_the_critic_warms_up_the_policy_stands_still(made, answers, arrangement, precision):
    learner, config = made(
        arrangement,
        critic={"warmup_steps": 2} | ({"loss_coefficient": 1.0} if "head" in arrangement else {}),
        precision=precision,
    )
    before, completions = snapshot(learner), answers(8)
    critics = {name for name in before if name.startswith("critic.") or ".critic." in name or ".value_head." in name}
    for step in range(2):
        metrics = optimise(judged(learner, completions, config), learner, config, step=step, seed=step)
        assert "policy/gradient_norm" not in metrics and metrics["critic/gradient_norm"] > 0
        assert all(weight.grad is None for weight in parameters_of(learner).values())
    moved = changed(before, learner)
    assert moved and moved <= critics
    optimise(judged(learner, completions, config), learner, config, step=2, seed=2)
    assert changed(before, learner) - critics
    assert all(weight.grad is None for weight in parameters_of(learner).values())


def test_a_gradient_of_a_policy_that_does_not_learn_yet_skips_nothing(made, answers):
    """On a common trunk the policy's loss has a gradient during the warm-up, too."""
    learner, config = made("value_head", critic={"warmup_steps": 1}, guard={"gradient_norm": 1e9})
    metrics = optimise(judged(learner, answers(8), config), learner, config, step=0, seed=0)
    limit = metrics["critic/gradient_norm"] * 2
    other, config = made("value_head", critic={"warmup_steps": 1}, guard={"gradient_norm": limit})
    assert optimise(judged(other, answers(8), config), other, config, step=0, seed=0)["update/skipped"] == 0
    assert optimise(judged(other, answers(8), config), other, config, step=1, seed=0)["update/skipped"] == 2


# Old texts


class Words:
    def __call__(self, text):
        return {"input_ids": [int(word) for word in text.split()]}


@pytest.fixture
def old_texts(tmp_path):
    """`old_texts(**options)` -> PtxTexts over 12 texts of 2 to 9 tokens."""
    generator = torch.Generator().manual_seed(4)
    texts = [torch.randint(3, 40, (2 + n % 8,), generator=generator).tolist() for n in range(12)]
    path = tmp_path / "old.jsonl"
    path.write_text("".join(json.dumps({"text": " ".join(map(str, ids))}) + "\n" for ids in texts))

    def make(seed=0, **options):
        config = PtxConfig.model_validate({"data": {"path": str(path)}, "coefficient": 1.0} | options)
        return config, PtxTexts(config, {}, Words(), seed)

    return make


@pytest.mark.parametrize("tokens", [10_000, 20])
def test_old_texts_add_the_gradient_of_their_language_model_loss(made, answers, old_texts, tiny_model, tokens):
    ptx, texts = old_texts(coefficient=3.0, batch_size=5)
    learner, config = made(
        ptx=ptx.model_dump(), tokens_per_pass=tokens, rollout={"temperature": 0.5}, epochs=1, minibatch_size=8
    )
    loss = _old_texts(texts, 7, learner, config)["ptx/loss"]
    plain = tiny_model()
    total = count = 0
    for text in texts.batch(7):
        ids = torch.tensor([text.prompt_ids + text.response_ids])
        assert len(text.prompt_ids) == 1
        total = total + nn.functional.cross_entropy(plain(ids).logits[0, :-1], ids[0, 1:], reduction="sum")
        count += ids.shape[1] - 1
    (3.0 * total / count).backward()
    assert loss.item() == pytest.approx(total.item() / count, abs=1e-5)
    expected = {name: weight.grad for name, weight in plain.named_parameters()}
    for name, weight in learner.policy.lm.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_the_loss_on_old_texts_falls(made, answers, old_texts, arrangement):
    ptx, texts = old_texts(batch_size=12)
    learner, config = made(arrangement, ptx=ptx.model_dump(), learning_rate=3e-3, critic={"warmup_steps": 1})
    losses, completions = [], answers(8)
    for step in range(8):
        metrics = optimise(judged(learner, completions, config), learner, config, step=step, seed=step, ptx=texts)
        losses.append(metrics.get("ptx/loss"))
    assert losses[0] is None  # the policy does not learn during the warm-up, so nor do its old texts
    assert losses[-1] < losses[1] - 0.15


def test_which_old_texts_come_follows_from_the_step(made, answers, old_texts):
    ptx, texts = old_texts(batch_size=5)
    _, same = old_texts(batch_size=5)
    _, other = old_texts(seed=1, batch_size=5)
    assert texts.batch(9) == [same.batch(number) for number in range(10)][9] != other.batch(9)
    met = [(*text.prompt_ids, *text.response_ids) for number in range(12) for text in texts.batch(number)]
    assert all(len(set(met[start : start + 12])) == 12 for start in range(0, 60, 12))  # every pass meets each once

    asked = []

    class Noted:
        def batch(self, number):
            asked.append(number)
            return texts.batch(number)

    learner, config = made(ptx=ptx.model_dump(), epochs=3)
    for step in range(2):
        optimise(judged(learner, answers(8), config), learner, config, step=step, seed=0, ptx=Noted())
    assert asked == list(range(12))  # 2 minibatches in 3 epochs of 2 steps


def test_old_texts_are_cut_and_those_with_nothing_to_predict_left_out(tmp_path, old_texts):
    _, texts = old_texts(max_tokens=4, batch_size=12)
    assert max(len(text.prompt_ids + text.response_ids) for text in texts.batch(0)) == 4
    (tmp_path / "short.jsonl").write_text('{"text": "7"}\n')
    with pytest.raises(DataError, match=r"ptx\.data: no text has two tokens"):
        old_texts(data={"path": str(tmp_path / "short.jsonl")})


# The guard


def spoiled(bad, row=5):
    def scorer(completions, rows):
        scores = liked_scores(completions, rows)
        scores[row] = bad
        return scores

    return scorer


UNMIXED = {"whiten_advantages": False, "missing_eos": None, "epochs": 2, "clip": {"value": None}}


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_exactly_the_updates_with_a_bad_score_are_left_out(made, answers, arrangement, bad):
    completions = answers(8)
    learner, config = made(arrangement, **UNMIXED)
    metrics = optimise(judged(learner, completions, config, spoiled(bad)), learner, config, step=0, seed=3)
    assert metrics["update/skipped"] == 2 and metrics["update/epochs"] == 2
    assert all(math.isfinite(number) for number in metrics.values())

    other, config = made(arrangement, **UNMIXED)
    rollout = judged(other, completions, config)
    shuffle = torch.Generator().manual_seed(3)
    for minibatch in [part for _ in range(2) for part in torch.randperm(8, generator=shuffle).split(4)]:
        if 5 not in minibatch:
            _policy_and_critic(rollout, minibatch.tolist(), other, config, 0)
            for optimizer in (other.policy_optimizer, other.critic_optimizer):
                optimizer.clip()
                optimizer.step()
    assert changed(snapshot(other), learner) == set()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_bad_score_costs_its_whole_batch_where_advantages_are_whitened_and_no_more(made, answers, precision):
    options = {
        "scores": {"normalise": "running", "clip": 2.0},
        "missing_eos": None,
        "epochs": 4,
        "precision": precision,
    }
    learner, config = made(**options)
    completions, before = answers(8), snapshot(learner)
    lost = optimise(judged(learner, completions, config, spoiled(math.nan)), learner, config, step=0, seed=3)
    assert lost == {"update/skipped": 8, "update/epochs": 4}
    assert learner.skipped == 1  # a step of the run, however many updates it would have made
    assert changed(before, learner) == set()
    assert all(weight.grad is None for weight in parameters_of(learner).values())

    taken = optimise(judged(learner, completions, config), learner, config, step=1, seed=3)
    other, config = made(**options)
    other.score_statistics.add(liked_scores(completions, [])[[0, 1, 2, 3, 4, 6, 7]])
    expected = optimise(judged(other, completions, config), other, config, step=1, seed=3)
    assert taken == expected and taken["update/skipped"] == 0
    assert learner.skipped == 0
    assert changed(snapshot(other), learner) == set()


def test_a_gradient_above_the_limit_is_left_out(made, answers):
    completions = answers(8)
    learner, config = made(epochs=1, minibatch_size=8)
    metrics = optimise(judged(learner, completions, config), learner, config, step=0, seed=0)
    norm = max(metrics["policy/gradient_norm"], metrics["critic/gradient_norm"])
    for limit, skipped in ((norm * 1.001, 0), (norm * 0.999, 1)):
        learner, config = made(epochs=1, minibatch_size=8, guard={"gradient_norm": limit})
        before = snapshot(learner)
        metrics = optimise(judged(learner, completions, config), learner, config, step=0, seed=0)
        assert metrics["update/skipped"] == skipped
        assert bool(changed(before, learner)) is (skipped == 0)
