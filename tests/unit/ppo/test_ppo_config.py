"""What a recipe may not ask of PPO, and what it is told instead."""

import pytest
from pydantic import ValidationError

from alignment.ppo.config import PPOConfig

REFERENCES = {"model": {"stage": "sft"}, "reward": {"stage": "reward"}, "prompts": {"lab": "prompts"}}
POLICY_CRITIC = {"critic": {"init": "policy"}}
SHARED = {"arrangement": "shared_base", "peft": {}} | POLICY_CRITIC
HEAD = {"arrangement": "value_head"} | POLICY_CRITIC
PTX = {"data": {"lab": "corpus"}, "coefficient": 1.0}
SERVER = {"engine": "vllm_server", "url": "http://localhost:8000"}


@pytest.mark.parametrize(
    "options",
    [
        {},
        SHARED,
        SHARED | {"quantization": {"bits": 4}},
        SHARED | {"rollout": {"engine": "vllm", "lora": "adapter"}},
        HEAD,
        HEAD | {"critic": {"init": "policy", "stop_gradient": True}},
        HEAD | {"peft": {}, "quantization": {"bits": 8}},
        {"rollout": SERVER},
        {"critic": {"warmup_steps": 59}, "steps": 60},
        {"runtime": {"processes": 16}, "ptx": PTX},
    ],
)
def test_what_fits_together_is_accepted(options):
    PPOConfig.model_validate(REFERENCES | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peft": {}}, "peft: four separate models are trained whole; use arrangement shared_base or value_head"),
        ({"arrangement": "shared_base"} | POLICY_CRITIC, "shared_base: policy and critic are adapters .* under peft"),
        (HEAD | {"quantization": {"bits": 4}}, "weights in few bits cannot be trained; add peft"),
        (SHARED | {"quantization": {"bits": 3}}, r"quantization\.bits"),
        (SHARED | {"critic": {"init": "reward"}}, "with arrangement shared_base .* set critic.init: policy"),
        (HEAD | {"critic": {"init": "reward"}}, "with arrangement value_head .* set critic.init: policy"),
        ({"critic": {"stop_gradient": True}}, "stop_gradient: only a value head .* set arrangement: value_head"),
        (SHARED | {"critic": {"init": "policy", "stop_gradient": True}}, "stop_gradient: only a value head"),
        ({"rollout": {"lora": "adapter"}}, "the policy has no adapter to send"),
        (SHARED | {"rollout": {"engine": "hf", "lora": "adapter"}}, "engine hf serves no adapters; use merged"),
        (
            SHARED | {"quantization": {"bits": 4}, "rollout": {"engine": "vllm", "lora": "adapter"}},
            "the engine's base is not quantised.*use merged",
        ),
        ({"critic": {"warmup_steps": 5}, "steps": 5}, "warmup_steps: 5 leaves the policy none of 5 steps"),
        ({"rollout": {"engine": "vllm", "url": "http://localhost:8000"}}, "vllm_server and url belong together"),
        ({"rollout": {"engine": "vllm_server"}}, "vllm_server and url belong together"),
        (
            {"minibatch_size": 2, "runtime": {"processes": 4}},
            r"minibatch_size: 2 is too few for runtime\.processes 4; raise it",
        ),
        (
            {"ptx": PTX | {"batch_size": 3}, "runtime": {"processes": 4}},
            r"ptx\.batch_size: 3 is too few for runtime\.processes 4",
        ),
        ({"minibatch_size": 30}, r"30 does not divide rollout\.batch_size 64; use 1, 2, 4, 8, 16, 32, 64"),
        (SHARED | {"runtime": {"processes": 2, "sharding": "full"}}, "sharding: adapters leave little to shard"),
        (SHARED | {"peft": {"dropout": 0.1}}, "PPO turns dropout off"),
        ({"critic": {"loss_coefficient": 0.3}}, "loss_coefficient: only a value head"),
        ({"kl": {"horizon": 5}}, "horizon: only a coefficient steered"),
        ({"kl": {"estimator": "k2"}}, "'k2' inside the reward .* only k1"),
        ({"kl": {"estimator": "k3"}}, "'k3' inside the reward .* only k1"),
        ({"rollout": {"top_p": 0.9}}, r"rollout\.top_p\s+Extra inputs are not permitted"),
        ({"rollout": {"top_k": 50}}, r"rollout\.top_k\s+Extra inputs are not permitted"),
        ({"learning_rates": 1e-6}, r"learning_rates\s+Extra inputs are not permitted"),
        ({"clip": {"dual": 1.0}}, r"clip\.dual\s+Input should be greater than 1"),
        ({"gold": "vder"}, "'vder'; there are lab_service, vader"),
    ],
)
def test_what_cannot_be_is_refused_with_the_way_out(options, message):
    with pytest.raises(ValidationError, match=f"(?s){message}"):
        PPOConfig.model_validate(REFERENCES | options)
