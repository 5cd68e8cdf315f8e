import pytest
from pydantic import ValidationError

from alignment.ppo.config import PPOConfig

REFERENCES = {"model": {"stage": "sft"}, "reward": {"stage": "reward"}, "prompts": {"lab": "prompts"}}


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_only_k1_may_enter_the_reward(estimator):
    with pytest.raises(ValidationError, match=f"'{estimator}' inside the reward .* only k1"):
        PPOConfig.model_validate(REFERENCES | {"kl": {"estimator": estimator}})


@pytest.mark.parametrize("name", ["top_p", "top_k"])
def test_filtered_sampling_does_not_exist(name):
    with pytest.raises(ValidationError, match=name):
        PPOConfig.model_validate(REFERENCES | {"rollout": {name: 1}})


def test_a_minibatch_must_divide_the_batch_and_the_message_says_what_would():
    with pytest.raises(ValidationError, match=r"30 does not divide rollout\.batch_size 64; use 1, 2, 4, 8, 16, 32, 64"):
        PPOConfig.model_validate(REFERENCES | {"minibatch_size": 30})


def test_an_unknown_gold_scorer_is_named_with_those_that_exist():
    with pytest.raises(ValidationError, match="'vder'; there are lab_service, vader"):
        PPOConfig.model_validate(REFERENCES | {"gold": "vder"})
