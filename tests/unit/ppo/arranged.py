"""Learners in every arrangement, made by `new_learner` from tiny models saved on the spot."""

import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.models.reward_model import new_reward_model
from alignment.parallel import World
from alignment.ppo.arrangements import new_learner
from alignment.ppo.config import PPOConfig
from alignment.ppo.rollout import judge

ON_BASE = {"critic": {"init": "policy", "learning_rate": 1e-3}}
LORA = {"peft": {"r": 4, "alpha": 8}}
SHARED = {"arrangement": "shared_base"} | ON_BASE | LORA
HEAD = {"arrangement": "value_head"} | ON_BASE
ARRANGEMENTS = {
    "separate": {},
    "shared_base": SHARED,
    "shared_base, 8 bits": SHARED | {"quantization": {"bits": 8}},
    "shared_base, 4 bits": SHARED | {"quantization": {"bits": 4}},
    "value_head": HEAD,
    "value_head, stopped": HEAD | {"critic": ON_BASE["critic"] | {"stop_gradient": True}},
    "value_head, LoRA": HEAD | LORA,
}
WITH_LORA = [name for name, options in ARRANGEMENTS.items() if "peft" in options]


def save_models(folder, model):
    """The policy's folder, a reward model's and a tokenizer's, as the inputs of a stage."""
    model.save_pretrained(folder / "policy")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<end>": 2, "<unk>": 1}, unk_token="<unk>")), eos_token="<end>"
    )
    tokenizer.save_pretrained(folder / "policy")
    new_reward_model(folder / "policy").save_pretrained(folder / "reward")
    return {role: Artifact(role, role, folder / name) for role, name in (("model", "policy"), ("reward", "reward"))}


def config_in(arrangement, **options):
    """An option that is a mapping adds to the arrangement's own."""
    references = {"model": {"stage": "sft"}, "reward": {"stage": "reward"}, "prompts": {"lab": "prompts"}}
    small = {"rollout": {"batch_size": 8}, "minibatch_size": 4, "epochs": 1, "learning_rate": 1e-3}
    merged = references | small | {"critic": {"learning_rate": 1e-3}} | ARRANGEMENTS[arrangement]
    for name, value in options.items():
        merged[name] = merged.get(name, {}) | value if isinstance(value, dict) else value
    return PPOConfig.model_validate(merged)


def learner_in(inputs, config, folder):
    return new_learner(config, inputs, Context.at(folder), World(0, 1))


def liked_scores(completions, rows):
    """How often an answer holds token 7, less a half."""
    return torch.tensor([completion.response_ids.count(7) - 0.5 for completion in completions])


def judged(learner, completions, config, scorer=liked_scores):
    return judge(completions, [{}] * len(completions), learner, scorer, config)


def parameters_of(learner):
    """Every weight once, by name; those on a shared base go by the policy's names."""
    found = {}
    for part in ("policy", "critic", "reference"):
        module = getattr(learner, part)
        for name, weight in module.named_parameters() if module is not None else ():
            if all(weight is not other for other in found.values()):
                found[f"{part}.{name}"] = weight
    return found


def snapshot(learner):
    return {name: weight.detach().clone() for name, weight in parameters_of(learner).items()}


def changed(before, learner):
    """Names of the weights that are not bit for bit what they were."""
    return {name for name, weight in parameters_of(learner).items() if not torch.equal(weight, before[name])}
