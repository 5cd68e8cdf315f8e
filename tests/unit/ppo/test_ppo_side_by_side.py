"""Models at work side by side: the same numbers, at the same time, in the surroundings of whoever asked."""

import threading

import pytest
import torch
from learners import updated

from alignment.ppo.side_by_side import side_by_side


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_an_update_is_the_same_to_the_bit_whether_models_take_turns_or_not(made, answers, two_threads):
    """Each of two models then has one thread."""
    (apart, config), (in_turn, _) = made(), made()
    assert apart.at_once
    rollout, metrics = updated(apart, answers(8), config)
    torch.set_num_threads(1)
    in_turn.at_once = False
    expected, expected_metrics = updated(in_turn, answers(8), config)
    assert torch.equal(rollout.advantages, expected.advantages) and torch.equal(rollout.scores, expected.scores)
    assert metrics == expected_metrics
    for one, other in ((apart.policy, in_turn.policy), (apart.critic, in_turn.critic)):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("arrangement", ["shared_base", "value_head"])
def test_models_that_share_weights_take_turns(made, arrangement):
    learner, _ = made(arrangement)
    assert not learner.at_once


@pytest.mark.usefixtures("two_threads")
def test_tasks_meet_and_find_the_caller_s_gradient_mode_and_their_share_of_threads():
    meeting = threading.Barrier(2, timeout=20)

    def task():
        meeting.wait()
        return torch.is_grad_enabled(), torch.get_num_threads()

    assert side_by_side([task, task], at_once=True) == [(True, 1), (True, 1)]
    with torch.no_grad():
        assert side_by_side([task, task], at_once=True) == [(False, 1), (False, 1)]
    assert torch.get_num_threads() == 2 and torch.is_grad_enabled()


@pytest.mark.usefixtures("two_threads")
def test_an_error_comes_out_when_every_task_has_ended():
    ended = threading.Event()

    def fails():
        raise ValueError("no")

    def goes_on():
        ended.wait(0.2)
        ended.set()

    with pytest.raises(ValueError, match="no"):
        side_by_side([fails, goes_on], at_once=True)
    assert ended.is_set() and torch.get_num_threads() == 2
