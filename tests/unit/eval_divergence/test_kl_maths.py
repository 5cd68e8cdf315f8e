"""KL of two distributions by numbers worked out by hand, and what large vocabularies cost."""

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from eval import kl_maths
from eval.kl_maths import position_kl, position_kl_by_parts, sequence_sums

MEASURE = """
import resource, torch
from eval.kl_maths import position_kl_by_parts
torch.set_num_threads(1)
def run(positions, vocabulary):
    heads = [torch.nn.Linear(16, vocabulary, bias=False) for _ in range(2)]
    states = [torch.randn(positions, 16) for _ in range(2)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.inference_mode():
        kl = position_kl_by_parts(states[0], heads[0], states[1], heads[1], vocabulary)
    assert kl.shape == (positions,)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
run(4, 10)
print(run(POSITIONS, 150_000) / 2**20)
"""


def logits(*probabilities):
    return torch.tensor([probabilities]).log()


def test_two_tokens_by_hand():
    even, skewed = logits(0.5, 0.5), logits(0.25, 0.75)
    forward = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)  # 0.1438
    reverse = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)  # 0.1308
    assert position_kl(even, skewed).item() == pytest.approx(forward, abs=1e-7)
    assert position_kl(skewed, even).item() == pytest.approx(reverse, abs=1e-7)


def test_logits_need_not_be_normalised():
    assert position_kl(logits(0.5, 0.5) + 7, logits(0.25, 0.75) - 3).item() == pytest.approx(0.143841, abs=1e-6)


def test_impossible_tokens_count_nothing_in_p_and_everything_in_q():
    certain, even = logits(1.0, 0.0), logits(0.5, 0.5)
    assert position_kl(certain, even).item() == pytest.approx(math.log(2), abs=1e-7)
    assert position_kl(certain, certain).item() == 0
    assert position_kl(even, certain).item() == math.inf


def test_near_models_are_told_apart():
    """For logits (0, 0) and (0, e) it is log cosh(e / 2) = e^2 / 8 to four digits: far below what fp32 resolves."""
    p, q = torch.zeros(1, 2), torch.tensor([[0.0, 1e-4]])
    assert position_kl(p, q).item() == pytest.approx(1e-8 / 8, rel=1e-4)


@given(st.lists(st.tuples(st.floats(-20, 20), st.floats(-20, 20)), min_size=2, max_size=9))
def test_any_distributions_agree_with_plain_python(pairs):
    p, q = (list(column) for column in zip(*pairs, strict=True))
    normal = [math.log(math.fsum(map(math.exp, side))) for side in (p, q)]
    terms = [math.exp(a - normal[0]) * ((a - normal[0]) - (b - normal[1])) for a, b in pairs]
    kl = position_kl(*(torch.tensor([side], dtype=torch.double) for side in (p, q))).item()
    assert kl == pytest.approx(math.fsum(terms), abs=1e-11)
    assert kl >= -1e-12


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_the_parts_do_not_matter(monkeypatch, rows):
    torch.manual_seed(0)
    p, q = torch.randn(7, 4), torch.randn(7, 6)
    p_head, q_head = nn.Linear(4, 50), nn.Linear(6, 50)
    monkeypatch.setattr(kl_maths, "_AT_ONCE", rows * 50)
    with torch.no_grad():
        kl = position_kl_by_parts(p, p_head, q, q_head, 50)
        torch.testing.assert_close(kl, position_kl(p_head(p), q_head(q)))


def test_sums_by_sequence():
    sums = sequence_sums(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 2, 2]), sequences=3)
    assert sums.tolist() == [1, 0, 6]


@pytest.mark.slow
def test_64_answers_of_48_tokens_from_150_000_words_stay_below_a_gigabyte():
    """At once, the logits of both models alone would be 3.4 GiB in fp32."""
    code = MEASURE.replace("POSITIONS", str(64 * 48))
    extra = float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    print(f"extra memory {extra:.2f} GiB")
    assert extra < 1
