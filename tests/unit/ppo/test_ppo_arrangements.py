"""The arrangements of PPO's models: which weights are shared, which learn, and that none disturbs another."""

import copy

import pytest
import torch
from arranged import ARRANGEMENTS, WITH_LORA, changed, judged, parameters_of, snapshot
from bitsandbytes import functional as bits
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment.models.load import load_causal_lm
from alignment.models.merged import merged_weights
from alignment.ppo import maths
from alignment.ppo.adapters import CRITIC, POLICY, weights_of
from alignment.ppo.memory import memory_by_part
from alignment.ppo.networks import activate, plain
from alignment.ppo.result import save_policy
from alignment.ppo.update import _policy_and_critic, optimise

pytestmark = pytest.mark.usefixtures("on_the_cpu")
EACH = pytest.mark.parametrize("arrangement", ARRANGEMENTS)


def update(learner, config, completions, steps=2):
    for step in range(steps):
        optimise(judged(learner, completions, config), learner, config, step=step, seed=step)


def gradients(learner, config, completions):
    """By name, of a minibatch that holds the whole batch; left on the weights, too."""
    rollout = judged(learner, completions, config)
    _policy_and_critic(rollout, range(len(completions)), learner, config, step=0)
    return {name: weight.grad.clone() for name, weight in parameters_of(learner).items() if weight.grad is not None}


def assert_close(left, right, tolerance=1e-5):
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(
            left[name], right[name], atol=tolerance, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


@EACH
def test_the_policy_starts_as_the_reference(made, answers, arrangement):
    learner, config = made(arrangement)
    rollout = judged(learner, answers(8), config)
    assert torch.equal(rollout.policy_logprobs, rollout.reference_logprobs)


def learning(arrangement, names):
    """The names that should learn."""
    if arrangement == "separate":
        return {name for name in names if name.startswith(("policy.", "critic."))}
    if arrangement in WITH_LORA:
        adapters = {name for name in names if ".default." in name or ".critic." in name}
        assert (
            len(adapters) == (4 if arrangement.startswith("shared") else 2) * 2 * 7
        )  # A and B of seven matrices a layer
        return adapters | {name for name in names if "head." in name and "lm_head" not in name}
    return {name for name in names if name.startswith("policy.")}


@EACH
def test_exactly_policy_and_critic_learn(made, answers, arrangement):
    learner, config = made(arrangement)
    before, completions = snapshot(learner), answers(8)
    reference = judged(learner, completions, config).reference_logprobs
    expected = learning(arrangement, before)
    update(learner, config, completions)
    assert changed(before, learner) == expected
    assert gradients(learner, config, completions).keys() == expected
    assert {name for name, weight in parameters_of(learner).items() if weight.requires_grad} == expected
    after = judged(learner, completions, config)
    assert torch.equal(after.reference_logprobs, reference)
    assert (after.policy_logprobs - reference).abs().max() > 1e-3


@EACH
def test_the_critic_comes_closer_to_the_returns(made, answers, arrangement):
    learner, config = made(arrangement, critic={"learning_rate": 1e-2}, learning_rate=1e-6, clip={"value": None})
    completions = answers(8)
    first = judged(learner, completions, config)
    update(learner, config, completions, steps=10)
    last = judged(learner, completions, config)
    errors = [maths.masked_mean((rollout.values - first.returns) ** 2, first.mask) for rollout in (first, last)]
    assert errors[1] < 0.7 * errors[0]


def test_a_stopped_value_loss_leaves_the_trunk_to_the_policy(made, answers):
    learner, config = made("value_head, stopped", critic={"loss_coefficient": 1.0})
    completions = answers(8)
    with_critic = gradients(learner, config, completions)
    rollout = judged(learner, completions, config)
    learner.policy.zero_grad()
    pack = next(learner.packs(completions, range(8), rollout.mask.shape[1]))
    rows = pack.rows
    loss, _ = maths.policy_loss(
        pack.grid(learner.policy(pack, 1.0).logprobs),
        rollout.policy_logprobs[rows],
        rollout.advantages[rows],
        rollout.mask[rows],
        clip=0.2,
        weights=rollout.weights[rows],
    )
    loss.backward()
    alone = {f"policy.{name}": w.grad for name, w in learner.policy.named_parameters() if w.grad is not None}
    heads = with_critic.keys() - alone.keys()
    assert heads == {"policy.value_head.weight", "policy.value_head.bias"}
    assert all(with_critic.pop(name).abs().max() > 1e-2 for name in heads)
    assert_close(with_critic, alone, 1e-6)

    free, config = made("value_head", critic={"loss_coefficient": 1.0})
    moved = gradients(free, config, completions)
    name = "policy.lm.model.layers.0.mlp.up_proj.weight"
    assert (moved[name] - alone[name]).abs().max() > 1e-2


@pytest.mark.parametrize("arrangement", [name for name in WITH_LORA if name.startswith("shared")])
def test_policy_and_critic_do_not_disturb_each_other(made, answers, arrangement):
    learner, config = made(arrangement, learning_rate=1e-2, critic={"learning_rate": 1e-2})
    completions = answers(8)
    update(learner, config, completions, steps=2)
    rollouts = [judged(learner, completions, config)]
    for optimizer in (learner.critic_optimizer, learner.policy_optimizer):
        gradients(learner, config, completions)
        optimizer.step()
        learner.policy_optimizer.discard()
        learner.critic_optimizer.discard()
        rollouts.append(judged(learner, completions, config))
    start, critic_moved, policy_moved = rollouts
    assert torch.equal(critic_moved.policy_logprobs, start.policy_logprobs)
    assert not torch.equal(critic_moved.values, start.values)
    assert torch.equal(policy_moved.values, critic_moved.values)
    assert not torch.equal(policy_moved.policy_logprobs, start.policy_logprobs)


@EACH
@pytest.mark.parametrize("tokens", [10_000, 30])
def test_gradient_checkpointing_changes_no_gradient(made, answers, arrangement, tokens):
    """Layers are computed again in the backward pass: by then the adapter must still be the right one."""
    completions = answers(8)
    both = []
    for recompute in (False, True):
        learner, config = made(arrangement, gradient_checkpointing=recompute, tokens_per_pass=tokens)
        assert learner.policy.trunk.is_gradient_checkpointing is recompute
        with torch.no_grad():  # adapters start without effect; a wrong one would not show
            for number, name in enumerate((POLICY, CRITIC)):
                for weight in weights_of(learner.policy.lm, name):
                    weight.normal_(std=0.1, generator=torch.Generator().manual_seed(number))
        both.append(gradients(learner, config, completions))
    assert_close(*both)


def logits_of(model, completions):
    return [model(torch.tensor([c.prompt_ids + c.response_ids]), use_cache=False).logits[0] for c in completions]


def of_trained(learner, completions):
    """Log-probabilities by the trained policy, one answer after the other."""
    rows = [next(learner.packs(completions, [row], 12)) for row in range(len(completions))]
    return [learner.policy(pack, 1.0).logprobs for pack in rows]


def of_plain(model, completions):
    """The same by a model without adapters."""
    return [
        logits.log_softmax(-1)[len(c.prompt_ids) - 1 : -1].gather(1, torch.tensor(c.response_ids)[:, None])[:, 0]
        for c, logits in zip(completions, logits_of(model.eval(), completions), strict=True)
    ]


def loaded(inputs, weights):
    model = load_causal_lm(inputs["model"].path, dropout=False)
    model.load_state_dict(dict(weights), strict=False)
    return model


@pytest.mark.parametrize("arrangement", WITH_LORA)
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]])
@torch.no_grad()
def test_merged_weights_are_the_adapted_model(made, inputs, answers, arrangement, targets):
    learner, config = made(arrangement, peft={"target_modules": targets}, learning_rate=1e-2)
    completions = answers(6)
    with torch.enable_grad():
        update(learner, config, completions[:4] * 2)
    before = judged(learner, completions, config)
    for _ in range(2):  # as after every update: nothing in the model may change
        merged = loaded(inputs, merged_weights(learner.policy.lm, POLICY))
    after = judged(learner, completions, config)
    assert torch.equal(before.policy_logprobs, after.policy_logprobs) and torch.equal(before.values, after.values)
    assert merged.state_dict().keys() == load_causal_lm(inputs["model"].path).state_dict().keys()
    trained = torch.cat(of_trained(learner, completions))
    # On the CPU, that is: on a GPU layers of 8 bits round their inputs, too.
    torch.testing.assert_close(torch.cat(of_plain(merged, completions)), trained, atol=1e-5, rtol=0)
    if "bits" not in arrangement:
        peft_model = copy.deepcopy(learner.policy.lm)
        activate(peft_model, POLICY)
        peft_model.base_model.model.set_attn_implementation("eager")
        by_peft = peft_model.merge_and_unload(adapter_names=[POLICY])
        torch.testing.assert_close(torch.cat(of_plain(by_peft, completions)), trained, atol=1e-5, rtol=0)
    with torch.no_grad():
        base = torch.cat(of_plain(load_causal_lm(inputs["model"].path), completions))
    assert (trained - base).abs().max() > 0.05


@torch.no_grad()
def test_weights_of_8_bits_are_merged_as_what_they_stand_for(made):
    learner, _ = made("shared_base, 8 bits", peft={"target_modules": ["q_proj"]})
    layers = dict(plain(learner.policy.lm).named_modules())
    adapted, untouched = layers["model.layers.1.self_attn.q_proj"], layers["model.layers.1.mlp.up_proj"]
    adapted.lora_B["default"].weight.normal_(std=0.1)
    merged = dict(merged_weights(learner.policy.lm, POLICY))
    scale = 8 / 4  # alpha / r
    change = scale * adapted.lora_B["default"].weight @ adapted.lora_A["default"].weight
    for layer, name, added in (
        (adapted.base_layer, "model.layers.1.self_attn.q_proj.weight", change),
        (untouched, "model.layers.1.mlp.up_proj.weight", 0),
    ):
        numbers = layer.state.CB if layer.weight.data.dtype != torch.int8 else layer.weight.data
        rows = layer.state.SCB if layer.state.SCB is not None else layer.weight.SCB
        torch.testing.assert_close(merged[name], numbers * rows[:, None] / 127 + added, atol=1e-5, rtol=0)


def test_gradients_on_4_bits_stay_those_of_what_the_bits_stand_for(made, inputs, answers):
    """bitsandbytes repacks 4-bit weights at an evaluation on some processors, and gradients after that are wrong."""
    learner, config = made("shared_base, 4 bits")
    completions = answers(8)
    update(learner, config, completions)
    learner.policy.eval()
    judged(learner, completions, config)
    learner.policy.train()
    unquantised, plain_config = made("shared_base")
    quantised = parameters_of(learner)
    with torch.no_grad():
        for name, weight in parameters_of(unquantised).items():
            state = getattr(quantised[name], "quant_state", None)
            weight.copy_(quantised[name] if state is None else bits.dequantize_4bit(quantised[name].data, state))
    expected = gradients(unquantised, plain_config, completions)
    found = gradients(learner, config, completions)
    assert_close(found, expected)


@EACH
def test_resetting_the_reference_makes_it_the_present_policy_for_good(made, answers, arrangement):
    learner, config = made(arrangement, reference_reset_every=3, learning_rate=1e-2)
    completions = answers(8)
    start = judged(learner, completions, config)
    assert torch.equal(start.policy_logprobs, start.reference_logprobs)
    update(learner, config, completions)
    moved = judged(learner, completions, config)
    assert torch.equal(moved.reference_logprobs, start.reference_logprobs)
    learner.reset_reference()
    assert torch.equal(judged(learner, completions, config).reference_logprobs, moved.policy_logprobs)
    update(learner, config, completions)
    later = judged(learner, completions, config)
    assert torch.equal(later.reference_logprobs, moved.policy_logprobs)
    assert not torch.equal(later.policy_logprobs, moved.policy_logprobs)


@EACH
def test_a_state_brings_back_what_training_had_moved(made, answers, arrangement):
    learner, config = made(arrangement, reference_reset_every=2, scores={"normalise": "running"})
    completions = answers(8)
    update(learner, config, completions)
    learner.reset_reference()
    update(learner, config, completions, steps=1)
    learner.kl_coefficient = 0.5
    state = copy.deepcopy(learner.state())
    expected = judged(learner, completions, config)
    update(learner, config, completions)
    other, _ = made(arrangement, reference_reset_every=2, scores={"normalise": "running"})
    other.restore(state)
    found = judged(other, completions, config)
    for name in ("policy_logprobs", "reference_logprobs", "values", "scores", "rewards"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    update(other, config, completions)
    assert changed(snapshot(learner), other) == set()


@EACH
@torch.no_grad()
def test_what_is_left_behind_is_a_plain_model_like_the_policy(made, inputs, answers, tmp_path, arrangement):
    learner, config = made(arrangement, reference_reset_every=9, learning_rate=1e-2)
    completions = answers(8)
    with torch.enable_grad():
        update(learner, config, completions)
    trained = torch.cat(of_trained(learner, completions))
    adapter = {name: w.clone() for name, w in learner.policy.lm.named_parameters() if ".default." in name}
    save_policy(learner, inputs["model"].path, AutoTokenizer.from_pretrained(inputs["model"].path), tmp_path / "out")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    if "bits" in arrangement:  # the adapter is merged into the base as it was before it was rounded
        full, _ = made("shared_base")
        for name, weight in full.policy.lm.named_parameters():
            if ".default." in name:
                weight.copy_(adapter[name])
        trained = torch.cat(of_trained(full, completions))
    torch.testing.assert_close(torch.cat(of_plain(saved, completions)), trained, atol=1e-5, rtol=0)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert ("adapter" in written) == (arrangement in WITH_LORA)
    assert (tmp_path / "out" / "model.safetensors").exists()
    if arrangement in WITH_LORA:
        inside = {path.name for path in (tmp_path / "out" / "adapter").iterdir()}
        assert inside >= {"adapter_config.json", "adapter_model.safetensors"}
        assert not inside & {"critic", "reference"}


TRUNK = 40 * 32 + 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48 + 2 * 32) + 32  # embedding, two layers, last norm
ADAPTER = 2 * 4 * ((32 + 32) * 2 + (32 + 16) * 2 + (32 + 48) * 3)  # r = 4 on seven matrices in two layers
MATRICES = 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48)


@pytest.mark.parametrize(
    ("arrangement", "policy", "reference", "critic", "trained"),
    [
        ("separate", 4 * TRUNK, 4 * TRUNK, 4 * (TRUNK + 33), 2 * TRUNK + 33),
        ("shared_base", 4 * (TRUNK + 2 * ADAPTER), 0, 4 * 33, 2 * ADAPTER + 33),
        ("shared_base, 8 bits", 4 * (TRUNK + 2 * ADAPTER) - 3 * MATRICES, 0, 4 * 33, 2 * ADAPTER + 33),
        ("shared_base, 4 bits", 4 * (TRUNK + 2 * ADAPTER) - MATRICES * 7 // 2, 0, 4 * 33, 2 * ADAPTER + 33),
        ("value_head", 4 * (TRUNK + 33), 4 * TRUNK, 0, TRUNK + 33),
        ("value_head, LoRA", 4 * (TRUNK + ADAPTER + 33), 0, 0, ADAPTER + 33),
    ],
)
def test_memory_is_counted_once_for_what_is_shared(made, arrangement, policy, reference, critic, trained):
    learner, _ = made(arrangement)
    weights = {"policy": policy, "reference": reference, "critic": critic, "reward model": 0}
    training = {"gradients": 4 * trained, "masters": 0, "moments": 8 * trained}
    total = {"total": policy + reference + critic + 12 * trained}
    assert memory_by_part(learner, scorer=None) == weights | training | total


def test_memory_in_bf16_shows_the_fp32_masters_and_the_reward_model(made):
    learner, _ = made("separate", precision="bf16")
    trained = 2 * TRUNK + 33
    scorer = type("Scorer", (), {"model": torch.nn.Linear(3, 1)})()
    parts = memory_by_part(learner, scorer)
    assert parts.pop("total") == sum(parts.values())
    assert parts == {
        "policy": 2 * TRUNK,
        "reference": 2 * TRUNK,
        "critic": 2 * (TRUNK + 33),
        "reward model": 4 * 4,
        "gradients": 2 * trained,
        "masters": 2 * 4 * trained,
        "moments": 2 * 4 * trained,
    }
