"""The three arrangements of PPO's models in memory, and the learner on top of each.

separate:     policy, reference, critic, reward model: four models. Needs the most memory, and nothing is shared that should not be.
shared_base:  policy and critic are adapters on one frozen base, which without them is the reference.
value_head:   the critic is a linear read-out of the policy's trunk.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.core.errors import ModelError
from alignment.models.load import load_causal_lm, turn_dropout_off
from alignment.models.precision import DTYPES
from alignment.models.reward_model import NORMALISATION_FILE, Normalisation, draw_head, load_reward_model
from alignment.parallel import World
from alignment.ppo.adapters import CRITIC, POLICY, REFERENCE, add_like, weights_of
from alignment.ppo.config import PPOConfig
from alignment.ppo.learner import Learner
from alignment.ppo.networks import BASE, Critic, Policy, plain
from alignment.ppo.optimizer import Optimizer, cast_parameters
from alignment.ppo.packing import allow_packing
from alignment.ppo.sharding import shard


def new_learner(config: PPOConfig, inputs: Mapping[str, Artifact], context: Context, world: World) -> Learner:
    """Policy, reference, critic and optimisers as they are before the first step."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    build = {"separate": _separate, "shared_base": _shared_base, "value_head": _value_head}[config.arrangement]
    policy, reference, critic = build(config, inputs, context, device)
    trunks = [policy.trunk, *([reference.trunk] if reference.lm is not policy.lm else [])]
    trunks += [critic.trunk] if critic is not None and config.arrangement == "separate" else []
    packed = _pack_all(trunks)
    if not packed:
        context.log.info(f"{type(plain(policy.lm)).__name__} cannot run on packed sequences: batches are padded")
    for module in (policy, reference, critic):
        if module is not None:
            _hold_still(module)
    if config.gradient_checkpointing:
        _checkpoint_gradients(policy, critic)
    sharding = config.runtime.sharding if world.size > 1 else "none"
    if sharding != "none":
        _shard(config, sharding, policy, reference, critic, device, world)
    # Sharded weights stay in fp32 and are cast as they are gathered; adapters are small, and stay in fp32 too.
    cast = torch.float32 if config.peft is not None or sharding != "none" else DTYPES[_held(config)]
    trained = weights_of(policy.lm, POLICY) if config.peft else [*plain(policy.lm).parameters()]
    valued = _critic_parameters(policy, critic)
    learner = Learner(
        policy=policy,
        reference=reference,
        critic=critic,
        policy_optimizer=Optimizer(trained, config.learning_rate, config.max_grad_norm, cast, world),
        critic_optimizer=Optimizer(
            valued,
            config.critic.learning_rate,
            config.max_grad_norm,
            cast if config.arrangement == "separate" else torch.float32,
            world,
        ),
        kl_coefficient=config.kl.coefficient,
        device=device,
        packed=packed,
        tokens_per_pass=config.tokens_per_pass,
        world=world,
        even=sharding != "none",
        at_once=config.arrangement == "separate" and device == "cpu" and world.size == 1,
        reference_moves=config.reference_reset_every is not None,
    )
    if config.peft is None and not learner.even:
        cast_parameters(reference, DTYPES[config.engine_precision])
    return learner


def _pack_all(trunks: Sequence[Any]) -> bool:
    """All of the models can be given packs, or all stay as they were."""
    before = [trunk.config._attn_implementation for trunk in trunks]
    if all(allow_packing(trunk) for trunk in trunks):
        return True
    for trunk, attention in zip(trunks, before, strict=True):
        trunk.set_attn_implementation(attention)
    return False


_Models = tuple[Policy, Policy, Critic | None]


def _separate(config: PPOConfig, inputs: Mapping[str, Artifact], context: Context, device: str) -> _Models:
    policy = _whole_policy(config, inputs, device)
    if config.critic.init == "policy":
        critic = critic_from_policy(plain(policy.lm), context.seed_for("critic head"), policy.autocast)
    else:
        model = load_reward_model(inputs["reward"].path)
        turn_dropout_off(model)
        mean, deviation = _normalisation(inputs["reward"])
        critic = critic_from_reward_model(model, mean, deviation, policy.autocast)
    return policy, _frozen_copy(policy), critic.to(device)


def _shared_base(config: PPOConfig, inputs: Mapping[str, Artifact], context: Context, device: str) -> _Models:
    policy, reference = _adapter_policy(config, inputs, context, device)
    add_like(policy.lm, CRITIC, seed=context.seed_for("critic adapter"))
    turn_dropout_off(policy.lm)
    head = _fresh_head(plain(policy.lm), context.seed_for("critic head")).to(device)
    return policy, reference, Critic(policy.trunk, head, adapter=CRITIC, autocast=policy.autocast)


def _value_head(config: PPOConfig, inputs: Mapping[str, Artifact], context: Context, device: str) -> _Models:
    if config.peft is None:
        policy = _whole_policy(config, inputs, device)
        reference = _frozen_copy(policy)
    else:
        policy, reference = _adapter_policy(config, inputs, context, device)
    if not policy.plain_head:
        raise ModelError(
            str(inputs["model"].path),
            "its logits are not simply read off its last hidden state, so a value cannot be read there beside them",
            "a model without logit scaling or capping",
            "set arrangement: separate",
        )
    policy.value_head = _fresh_head(plain(policy.lm), context.seed_for("critic head")).to(device)
    policy.stop_gradient = config.critic.stop_gradient
    return policy, reference, None


def _whole_policy(config: PPOConfig, inputs: Mapping[str, Artifact], device: str) -> Policy:
    lm: Any = load_causal_lm(inputs["model"].path, dropout=False)
    return Policy(lm.to(device), autocast=config.precision == "autocast")


def _adapter_policy(
    config: PPOConfig, inputs: Mapping[str, Artifact], context: Context, device: str
) -> tuple[Policy, Policy]:
    """The policy as an adapter, and as its reference the base without it, or an adapter that can follow."""
    lm: Any = load_causal_lm(
        inputs["model"].path,
        _held(config),
        config.peft,
        config.quantization,
        dropout=False,
        seed=context.seed_for("adapter"),
    )
    lm = lm if config.quantization is not None and device == "cpu" else lm.to(device)
    autocast = config.precision == "autocast"
    policy, reference = Policy(lm, adapter=POLICY, autocast=autocast), Policy(lm, adapter=BASE, autocast=autocast)
    if config.reference_reset_every is not None:
        add_like(lm, REFERENCE, source=POLICY)
        for weight in weights_of(lm, REFERENCE):
            weight.requires_grad_(False)
        turn_dropout_off(lm)
        reference.adapter = REFERENCE
    return policy, reference


def critic_from_reward_model(model: Any, mean: float = 0.0, deviation: float = 1.0, autocast: bool = False) -> Critic:
    """A critic that starts as the reward model: it already knows what a good answer looks like (N+, detail 20).

    mean, deviation: those by which the scorer normalises the reward; built into the head, so that values start on the scale
    of the scores.
    """
    score = model.score
    head = nn.Linear(score.in_features, 1).to(score.weight)
    with torch.no_grad():
        head.weight.copy_(score.weight / deviation)
        head.bias.fill_(-mean / deviation)
    return Critic(model.base_model, head, autocast=autocast)


def critic_from_policy(lm: Any, seed: int, autocast: bool = False) -> Critic:
    """A critic on a copy of the policy's trunk under a fresh head."""
    trunk = copy.deepcopy(lm.base_model)
    return Critic(trunk, _fresh_head(lm, seed), autocast=autocast)


def _fresh_head(lm: Any, seed: int) -> nn.Linear:
    """Weights with deviation 1 / sqrt(hidden + 1), bias 0 (N+, detail 11). In fp32: it is small, and read in fp32."""
    head = nn.Linear(lm.config.get_text_config().hidden_size, 1)
    draw_head(head, seed)
    nn.init.zeros_(head.bias)
    return head


def _frozen_copy(policy: Policy) -> Policy:
    return copy.deepcopy(policy).requires_grad_(False)


def _critic_parameters(policy: Policy, critic: Critic | None) -> list[Tensor]:
    if critic is None:
        assert policy.value_head is not None
        return list(policy.value_head.parameters())
    if critic.adapter is None:
        return list(critic.parameters())
    return [*weights_of(policy.lm, critic.adapter), *critic.head.parameters()]


def _held(config: PPOConfig) -> Any:
    """The dtype that weights are held in."""
    return "bf16" if config.precision == "bf16" else "fp32"


def _normalisation(reward: Artifact) -> tuple[float, float]:
    """Mean and deviation by which the scorer normalises this reward model; 0 and 1 where it does not say."""
    if not (reward.path / NORMALISATION_FILE).exists():
        return 0.0, 1.0
    read = Normalisation.read(reward.path)
    return read.mean, read.std


def _hold_still(module: nn.Module) -> None:
    """Evaluation state: whatever is random in training, router noise or dropped layers, is off like the dropouts. But layers of
    8 bits would round their inputs, too, on a CPU."""
    module.eval()
    for part in module.modules():
        if type(part).__name__ == "Linear8bitLt":
            part.training = True


def _checkpoint_gradients(policy: Policy, critic: Critic | None) -> None:
    trunks = [policy.trunk] + ([critic.trunk] if critic is not None and critic.adapter is None else [])
    for trunk in trunks:
        if not trunk.supports_gradient_checkpointing:
            raise ModelError(
                type(trunk).__name__, "it has no gradient checkpointing", "", "set gradient_checkpointing: false"
            )
        trunk.gradient_checkpointing_enable({"use_reentrant": False})
        for part in trunk.modules():
            if getattr(part, "gradient_checkpointing", False):
                part.training = True  # or it does not checkpoint; its children stay as they are


def _shard(
    config: PPOConfig,
    sharding: Any,
    policy: Policy,
    reference: Policy,
    critic: Critic | None,
    device: str,
    world: World,
) -> None:
    dtype = DTYPES[_held(config)]
    for module, trunk in ((policy, policy.trunk), (reference, reference.trunk)):
        shard(module, trunk, sharding, dtype, device, world.size)
    if critic is not None:
        shard(critic, critic.trunk, sharding, dtype, device, world.size)
