"""Scores on their way to becoming rewards: running statistics, normalising, clipping."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.ppo.config import ScoreConfig
from alignment.ppo.scores import ScoreStatistics, shaped

batches = st.lists(st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=8), min_size=1, max_size=5)


@settings(deadline=None)
@given(batches)
def test_running_statistics_are_those_of_all_scores_so_far(batches):
    statistics = ScoreStatistics()
    for batch in batches:
        statistics.add(torch.tensor(batch))
    everything = np.concatenate([np.array(batch, dtype=np.float64) for batch in batches])
    assert statistics.count == len(everything)
    assert statistics.mean == pytest.approx(everything.mean(), abs=1e-9)
    assert statistics.deviation == pytest.approx(everything.std(), abs=1e-6)


def test_running_statistics_survive_a_large_offset():
    statistics = ScoreStatistics()
    for batch in ([1e6 + 1, 1e6 + 2], [1e6 + 3]):
        statistics.add(torch.tensor(batch))
    assert statistics.deviation == pytest.approx((2 / 3) ** 0.5)


def test_restored_statistics_go_on_as_if_never_stopped():
    whole, first, second = ScoreStatistics(), ScoreStatistics(), ScoreStatistics()
    for batch in ([1.0, 4.0], [2.0, 9.0, 3.0]):
        whole.add(torch.tensor(batch))
    first.add(torch.tensor([1.0, 4.0]))
    second.restore(first.state())
    second.add(torch.tensor([2.0, 9.0, 3.0]))
    assert second == whole


def test_running_normalisation_counts_the_batch_itself():
    statistics, config = ScoreStatistics(), ScoreConfig(normalise="running")
    first = shaped(torch.tensor([1.0, 3.0]), config, statistics)
    torch.testing.assert_close(first, torch.tensor([-1.0, 1.0]))  # mean 2, deviation 1
    second = shaped(torch.tensor([5.0, 7.0]), config, statistics)
    torch.testing.assert_close(second, torch.tensor([1.0, 3.0]) / 5**0.5)  # of 1, 3, 5, 7: mean 4, variance 5


def test_batch_normalisation_forgets_earlier_batches():
    statistics, config = ScoreStatistics(), ScoreConfig(normalise="batch")
    shaped(torch.tensor([100.0, 300.0]), config, statistics)
    torch.testing.assert_close(shaped(torch.tensor([5.0, 7.0]), config, statistics), torch.tensor([-1.0, 1.0]))


def test_clipping_comes_after_normalising():
    scores = torch.tensor([0.0, 0.0, 0.0, 0.0, 10.0])  # mean 2, deviation 4
    clipped = shaped(scores, ScoreConfig(normalise="batch", clip=1.5), ScoreStatistics())
    torch.testing.assert_close(clipped, torch.tensor([-0.5, -0.5, -0.5, -0.5, 1.5]))
    torch.testing.assert_close(
        shaped(torch.tensor([-9.0, 0.5]), ScoreConfig(clip=2.0), ScoreStatistics()), torch.tensor([-2.0, 0.5])
    )


@pytest.mark.parametrize("normalise", ["running", "batch"])
@pytest.mark.parametrize("score", [0.1, 1000.1, -33.3])
def test_equal_scores_normalise_to_zero(normalise, score):
    scores = torch.full((7,), score)
    assert shaped(scores, ScoreConfig(normalise=normalise), ScoreStatistics()).abs().max() < 1e-3


def test_scores_pass_unchanged_where_nothing_is_asked_for():
    scores = torch.tensor([3.0, -40.0])
    assert torch.equal(shaped(scores, ScoreConfig(), ScoreStatistics()), scores)
