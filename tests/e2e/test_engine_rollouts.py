"""Both rollout engines: what they sample, what they say about it, and whether new weights arrive."""

import importlib.util
import os
import random
from contextlib import closing

import numpy as np
import pytest
import torch
from ppo_models import EOS, prompts_of, reference_logprobs, save_tiny_model
from transformers import AutoModelForCausalLM

from alignment.core.errors import ModelError
from alignment.generation.engine import Sampling
from alignment.generation.open import open_engine

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
SIZES = {"max_prompt_tokens": 8, "max_new_tokens": 16, "batch_size": 16}
EACH_ENGINE = pytest.mark.parametrize("name", ["hf", pytest.param("vllm", marks=needs_vllm)])


@pytest.fixture(scope="module", params=["tied", "untied"])
def folder(request, tmp_path_factory):
    # Heads differ in scale, tied or not; either way some answers shall end early and some not.
    tied = request.param == "tied"
    return save_tiny_model(tmp_path_factory.mktemp("model") / request.param, tied, eos_bias=4.0 if tied else 1.0)


def gap(left, right):
    return max(abs(a - b) for one, other in zip(left, right, strict=True) for a, b in zip(one, other, strict=True))


@EACH_ENGINE
def test_rollouts_and_new_weights(name, folder):
    """One engine, so that starting it is paid once: samples are judged as the trainer judges them, and after an update the
    engine holds the trainer's weights."""
    prompts, sampling = prompts_of(24), Sampling(max_new_tokens=16, temperature=0.7, seed=3)
    trainer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with closing(open_engine(name, folder, **SIZES)) as engine:
        completions = engine.generate(prompts, sampling)
        assert [completion.prompt_ids for completion in completions] == prompts
        assert 0 < sum(completion.finished for completion in completions) < len(prompts)
        for completion in completions:
            ended = EOS in completion.response_ids
            assert completion.finished == ended == (completion.response_ids[-1] == EOS)
            assert ended or len(completion.response_ids) == 16
            assert EOS not in completion.response_ids[:-1]
        by_trainer = [reference_logprobs(trainer, c.prompt_ids, c.response_ids, 0.7) for c in completions]
        assert gap([completion.logprobs for completion in completions], by_trainer) < 1e-4

        again = engine.generate(prompts, sampling)
        assert [c.response_ids for c in again] == [c.response_ids for c in completions]
        other = engine.generate(prompts, Sampling(max_new_tokens=16, temperature=0.7, seed=4))
        assert sum(a.response_ids != b.response_ids for a, b in zip(other, completions, strict=True)) > 12

        with torch.no_grad():
            for parameter in trainer.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        probes = [(c.prompt_ids + c.response_ids)[:-1] for c in completions if len(c.response_ids) > 3]
        expected = [reference_logprobs(trainer, ids[:1], ids[1:], 1.0) for ids in probes]
        assert gap(engine.logprobs(probes), expected) > 0.1  # the update is large enough to be missed
        engine.load_weights(trainer.named_parameters())
        assert gap(engine.logprobs(probes), expected) < 1e-4
        sampled = engine.generate(prompts, sampling)
        by_trainer = [reference_logprobs(trainer, c.prompt_ids, c.response_ids, 0.7) for c in sampled]
        assert gap([completion.logprobs for completion in sampled], by_trainer) < 1e-4


@EACH_ENGINE
def test_greedy_answers_are_the_most_likely_tokens(name, folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with closing(open_engine(name, folder, **SIZES)) as engine:
        for completion in engine.generate(prompts_of(3), Sampling(max_new_tokens=5, temperature=0.0)):
            ids = list(completion.prompt_ids)
            for token in completion.response_ids:
                assert token == int(model(torch.tensor([ids])).logits[0, -1].argmax())
                ids.append(token)


@needs_vllm
def test_starting_vllm_leaves_the_process_as_it_was(folder):
    torch.set_num_threads(2)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    cores = os.sched_getaffinity(0)
    try:
        with closing(open_engine("vllm", folder, **SIZES)) as engine:
            assert engine.name.startswith("vLLM ") and engine.name.endswith("(in process)")
            assert torch.get_num_threads() == 2
            torch.set_num_threads(1)
            assert torch.get_num_threads() == 1
            assert os.sched_getaffinity(0) == cores
            assert (random.random(), np.random.rand(), torch.rand(1)) == expected
    finally:
        torch.set_num_threads(1)


@EACH_ENGINE
def test_a_prompt_that_holds_eos_does_not_end_the_answer(name, tmp_path):
    """Models exist whose BOS is their EOS, and which never sample an EOS at all."""
    folder = save_tiny_model(tmp_path / "model", eos_bias=0.0, bos=EOS)
    with closing(open_engine(name, folder, **SIZES)) as engine:
        prompts = [[EOS, 5, 6], [EOS, EOS, 7]]
        for completion in engine.generate(prompts, Sampling(max_new_tokens=4, temperature=0.01, seed=1)):
            assert len(completion.response_ids) == 4
            assert not completion.finished


def test_the_samples_follow_the_models_distribution(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with closing(open_engine("hf", folder, max_prompt_tokens=2, max_new_tokens=1, batch_size=500)) as engine:
        drawn = engine.generate([[5, 6]] * 2000, Sampling(max_new_tokens=1, temperature=2.0, seed=0))
    with torch.no_grad():
        expected = (model(torch.tensor([[5, 6]])).logits[0, -1] / 2.0).softmax(-1)
    counts = torch.bincount(torch.tensor([completion.response_ids[0] for completion in drawn]), minlength=40)
    likely = expected > 0.005
    chi_squared = ((counts - 2000 * expected) ** 2 / (2000 * expected))[likely].sum()
    assert chi_squared < likely.sum() + 5 * (2 * likely.sum()) ** 0.5


def test_a_response_does_not_depend_on_its_batch(folder):
    prompts, sampling = prompts_of(9), Sampling(max_new_tokens=8, temperature=1.0, seed=0)
    alone = open_engine("hf", folder, max_prompt_tokens=8, max_new_tokens=8, batch_size=1)
    together = open_engine("hf", folder, max_prompt_tokens=8, max_new_tokens=8, batch_size=9)
    one, other = alone.generate(prompts, sampling), together.generate(prompts, sampling)
    assert [c.response_ids for c in one] == [c.response_ids for c in other]


@EACH_ENGINE
def test_a_slice_of_the_prompts_is_sampled_as_within_the_whole_batch(name, folder):
    prompts = prompts_of(6)
    with closing(open_engine(name, folder, **SIZES)) as engine:
        whole = engine.generate(prompts, Sampling(max_new_tokens=8, seed=3))
        rest = engine.generate(prompts[4:], Sampling(max_new_tokens=8, seed=3, first=4))
        wrong = engine.generate(prompts[4:], Sampling(max_new_tokens=8, seed=3))
    assert [c.response_ids for c in rest] == [c.response_ids for c in whole[4:]]
    assert [c.response_ids for c in wrong] != [c.response_ids for c in whole[4:]]


def test_what_does_not_fit_the_context_is_refused_with_numbers(folder):
    with pytest.raises(ModelError, match="60 tokens of prompt and 16 new ones do not fit its context of 64"):
        open_engine("hf", folder, max_prompt_tokens=60, max_new_tokens=16, batch_size=2)


@needs_vllm
def test_heads_that_vllm_cannot_run_on_cpu_are_refused_with_the_remedy(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = save_tiny_model(tmp_path / "model")
    config = LlamaConfig.from_pretrained(folder, head_dim=8)
    LlamaForCausalLM(config).save_pretrained(folder)
    with pytest.raises(ModelError, match=r"heads of size 8(.|\n)*set rollout.engine: hf"):
        open_engine("vllm", folder, **SIZES)
