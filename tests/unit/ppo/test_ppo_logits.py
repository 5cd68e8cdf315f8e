"""Log-probabilities without a batch's logits in memory: the same numbers and gradients, a bounded peak."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from alignment.ppo import logits
from alignment.ppo.logits import logprobs_and_entropy

ROWS, VOCABULARY = 37, 50

MEASURE = """
import resource, sys
import torch
from alignment.ppo.logits import logprobs_and_entropy
torch.set_num_threads(1)
tokens, entropy, dtype = int(sys.argv[1]), sys.argv[2] == "entropy", getattr(torch, sys.argv[3])
def run(tokens, vocabulary):
    head = torch.nn.Linear(16, vocabulary, bias=False).to(dtype)
    states = torch.randn(tokens, 16, dtype=dtype, requires_grad=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    numbers = logprobs_and_entropy(states, head, torch.randint(vocabulary, (tokens,)), 0.7, entropy)
    sum(number.sum() for number in numbers if number is not None).backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
run(4, 10)  # what torch loads at its first backward pass is not to be counted
print(run(tokens, 150_000) / 2**20)
"""


def measured_gib(tokens, entropy, dtype="float32"):
    """Peak resident memory of forward and backward pass above what was there before them."""
    command = [sys.executable, "-c", MEASURE, str(tokens), "entropy" if entropy else "", dtype]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def numbers_and_gradients(function, dtype=torch.float32):
    torch.manual_seed(0)
    head, states = nn.Linear(8, VOCABULARY).to(dtype), torch.randn(ROWS, 8).to(dtype).requires_grad_()
    targets, weights = torch.randint(VOCABULARY, (ROWS,)), torch.randn(2, ROWS)
    logprobs, entropy = function(states, head, targets)
    (logprobs @ weights[0].to(logprobs) + entropy @ weights[1].to(entropy)).backward()
    return [logprobs, entropy, states.grad, head.weight.grad, head.bias.grad]


def textbook(states, head, targets):
    logprobs = (head(states) / 0.7).log_softmax(-1)
    return logprobs[torch.arange(ROWS), targets], -(logprobs.exp() * logprobs).sum(-1)


def ours(states, head, targets):
    return logprobs_and_entropy(states, head, targets, 0.7, True)


@pytest.mark.parametrize("rows", [1, 10, 36, 37, 1000])
def test_values_and_gradients_do_not_depend_on_the_chunks(monkeypatch, rows):
    monkeypatch.setattr(logits, "_CHUNK", rows * VOCABULARY)
    expected = numbers_and_gradients(textbook, torch.double)
    for number, exact in zip(numbers_and_gradients(ours), expected, strict=True):
        torch.testing.assert_close(number, exact.float(), atol=1e-5, rtol=1e-5)


def test_without_gradients_they_are_the_same(monkeypatch):
    monkeypatch.setattr(logits, "_CHUNK", 10 * VOCABULARY)
    with torch.no_grad():
        head, states = nn.Linear(8, VOCABULARY), torch.randn(ROWS, 8)
        targets = torch.randint(VOCABULARY, (ROWS,))
        for number, exact in zip(ours(states, head, targets), textbook(states, head, targets), strict=True):
            torch.testing.assert_close(number, exact)
        assert logprobs_and_entropy(states, head, targets, 0.7, False)[1] is None


def test_a_head_without_weights_of_its_own_is_chunked_too(monkeypatch):
    monkeypatch.setattr(logits, "_CHUNK", 10 * VOCABULARY)
    scores, targets = torch.randn(ROWS, VOCABULARY), torch.randint(VOCABULARY, (ROWS,))
    logprobs, _ = logprobs_and_entropy(scores, nn.Identity(), targets, 1.0, False)
    torch.testing.assert_close(logprobs, scores.log_softmax(-1)[torch.arange(ROWS), targets])


def test_in_bf16_the_softmax_is_in_fp32(monkeypatch):
    monkeypatch.setattr(logits, "_CHUNK", 10 * VOCABULARY)
    head, states = nn.Linear(8, VOCABULARY, bias=False).bfloat16(), torch.randn(ROWS, 8).bfloat16()
    targets = torch.randint(VOCABULARY, (ROWS,))
    with torch.no_grad():
        expected = (head(states).double() / 0.7).log_softmax(-1)[torch.arange(ROWS), targets]
        logprobs, _ = logprobs_and_entropy(states, head, targets, 0.7, False)
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs, expected.float(), atol=1e-5, rtol=1e-5)


def test_no_logits_are_kept_for_the_backward_pass(monkeypatch):
    monkeypatch.setattr(logits, "_CHUNK", 10 * VOCABULARY)
    head, states, kept = nn.Linear(8, VOCABULARY), torch.randn(ROWS, 8, requires_grad=True), []
    with saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda tensor: tensor):
        ours(states, head, torch.randint(VOCABULARY, (ROWS,)))
    assert not [shape for shape in kept if VOCABULARY in shape]


@pytest.mark.slow
@pytest.mark.parametrize("entropy", [False, True])
def test_four_times_1024_tokens_of_150_000_words_stay_under_two_gigabytes(entropy):
    """At once it would be 6.9 GiB, with the entropy 13.7: four times what 1,024 tokens were measured to take."""
    extra = measured_gib(4096, entropy)
    print(f"extra memory {extra:.2f} GiB, entropy {entropy}")
    assert extra < 2e9 / 2**30
