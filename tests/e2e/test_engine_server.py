"""vLLM as a server: it samples what the engine in process samples, holds the weights that were sent last, tied ones
included, and says plainly what does not fit."""

import importlib.util
import json
from contextlib import closing
from pathlib import Path

import pytest
from engine_helpers import (
    SIZES,
    adapted,
    by_model,
    changed,
    gap,
    in_two_processes,
    judged,
    load,
    probes_of,
    running_server,
)
from ppo_models import prompts_of, save_tiny_model

from alignment.core.errors import ModelError, SuiteError
from alignment.generation.engine import Completion, Sampling
from alignment.generation.open import open_engine

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.slow,  # two starts of a server, each two Python processes that import vLLM
]
SAMPLING = Sampling(max_new_tokens=16, temperature=0.7, seed=3)


@pytest.fixture(scope="module", params=["tied", "untied"])
def served(request, tmp_path_factory):
    """A model's folder and the URL of a server for it."""
    tied, root = request.param == "tied", tmp_path_factory.mktemp("served")
    folder = save_tiny_model(root / "model", tied, eos_bias=4.0 if tied else 1.0)
    with running_server(folder, root / "server.log", "--adapter-rank", "8", "--max-model-len", "40") as url:
        yield folder, url


@pytest.fixture
def engine(served):
    with closing(open_engine("vllm_server", served[0], url=served[1], adapter_rank=8, **SIZES)) as engine:
        yield engine


def test_it_samples_what_the_engine_in_process_samples_before_and_after_new_weights(served, engine):
    prompts, trainer = prompts_of(24), load(served[0])
    with closing(open_engine("vllm", served[0], **SIZES)) as in_process:
        for _ in range(2):
            there, here = engine.generate(prompts, SAMPLING), in_process.generate(prompts, SAMPLING)
            assert [c.response_ids for c in there] == [c.response_ids for c in here]
            assert [c.finished for c in there] == [c.finished for c in here]
            assert [c.prompt_ids for c in there] == prompts
            assert gap([c.logprobs for c in there], [c.logprobs for c in here]) < 1e-4
            assert gap([c.logprobs for c in there], by_model(trainer, there, 0.7)) < 1e-4
            changed(trainer, seed=1)
            assert gap(engine.logprobs(probes_of(prompts)), judged(trainer, probes_of(prompts))) > 0.1
            engine.load_weights(trainer.named_parameters())
            in_process.load_weights(trainer.named_parameters())
            assert gap(engine.logprobs(probes_of(prompts)), judged(trainer, probes_of(prompts))) < 1e-4
    assert engine.name.startswith("vLLM ") and engine.name.endswith("(server)")


def test_a_slice_of_the_prompts_is_sampled_as_within_the_whole_batch(engine):
    prompts = prompts_of(6)
    whole = engine.generate(prompts, SAMPLING)
    rest = engine.generate(prompts[4:], Sampling(max_new_tokens=16, temperature=0.7, seed=3, first=4))
    assert [c.response_ids for c in rest] == [c.response_ids for c in whole[4:]]


def test_a_new_run_starts_from_its_own_model_and_leaves_no_file_behind(served, tmp_path):
    probes = probes_of(prompts_of(9))
    with closing(open_engine("vllm_server", served[0], url=served[1], **SIZES)) as engine:
        engine.load_weights(changed(load(served[0]), seed=2).named_parameters())
        shared = engine._served.weights_folder
    with closing(open_engine("vllm_server", served[0], url=served[1], **SIZES)) as engine:
        assert gap(engine.logprobs(probes), judged(load(served[0]), probes)) < 1e-4
    assert list(Path(shared).iterdir()) == []


def test_an_adapter_replaces_the_one_before_and_weights_replace_the_adapter(served, engine, tmp_path):
    probes = probes_of(prompts_of(9))
    for seed in (0, 1):
        model = adapted(served[0], tmp_path / str(seed), seed)
        engine.load_adapter(tmp_path / str(seed))
        assert gap(engine.logprobs(probes), judged(model, probes)) < 1e-4
    completions = engine.generate(prompts_of(9), SAMPLING)
    assert gap([c.logprobs for c in completions], by_model(model, completions, 0.7)) < 1e-4
    trainer = changed(load(served[0]), seed=3)
    engine.load_weights(trainer.named_parameters())
    assert gap(engine.logprobs(probes), judged(trainer, probes)) < 1e-4
    with pytest.raises(ModelError, match="DoRA"):
        adapted(served[0], tmp_path / "dora", 0, use_dora=True)
        engine.load_adapter(tmp_path / "dora")
    assert gap(engine.logprobs(probes), judged(trainer, probes)) < 1e-4  # and nothing hangs


def test_two_processes_share_a_server_and_its_adapter(served, tmp_path):
    folder, url = served
    models = [load(folder), *[adapted(folder, tmp_path / "adapter", 0)] * 2]
    in_two_processes("server_process.py", folder, url, tmp_path / "adapter", tmp_path)
    shares = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    sampling = Sampling(max_new_tokens=16, temperature=0.7, seed=1)
    for model, *answers in zip(models, *shares, strict=True):
        together = [answer for share in answers for answer in share]
        completions = [Completion(ids, *answer, True) for ids, answer in zip(prompts_of(8), together, strict=True)]
        assert gap([c.logprobs for c in completions], by_model(model, completions, 0.7)) < 1e-4
    with closing(open_engine("vllm_server", folder, url=url, **SIZES)) as engine:
        alone = engine.generate(prompts_of(8), sampling)
    assert [c.response_ids for c in alone] == [ids for share in shares for ids, _ in share[0]]


def test_a_weight_left_out_is_told_before_it_is_missed(served, engine):
    weights = [(name, weight) for name, weight in load(served[0]).named_parameters() if "k_proj" not in name]
    with pytest.raises(ValueError, match=r"2 of \d+ weights were not sent, among them model.layers.0.self_attn.k_proj"):
        engine.load_weights(weights)


def test_what_does_not_fit_is_told_with_the_remedy(served, tmp_path):
    folder, url = served
    tied = load(folder).config.tie_word_embeddings
    other = save_tiny_model(tmp_path / "other", tied=not tied)
    with pytest.raises(ModelError, match=r"it serves another model(.|\n)*tie_word_embeddings is"):
        open_engine("vllm_server", other, url=url, **SIZES)
    with pytest.raises(ModelError, match=r"it computes in float32(.|\n)*expected: bfloat16(.|\n)*--precision bf16"):
        open_engine("vllm_server", folder, url=url, precision="bf16", **SIZES)
    with pytest.raises(ModelError, match=r"its context of 40 tokens is too short(.|\n)*--max-model-len 41"):
        open_engine("vllm_server", folder, url=url, **SIZES | {"max_prompt_tokens": 25})
    with pytest.raises(ModelError, match=r"serves adapters of rank 8 at most(.|\n)*--adapter-rank 9"):
        open_engine("vllm_server", folder, url=url, adapter_rank=9, **SIZES)


def test_a_folder_that_the_server_does_not_see_is_told(served, engine, tmp_path):
    engine._served = type(engine._served)(engine._served.model, engine._served.version, tmp_path)
    with pytest.raises(SuiteError, match=r"does not exist on the server's machine(.|\n)*--weights-folder"):
        engine.load_weights(load(served[0]).named_parameters())
    engine._served = type(engine._served)(engine._served.model, engine._served.version, tmp_path / "none")
    with pytest.raises(SuiteError, match=r"cannot hand over weights(.|\n)*--weights-folder"):
        engine.load_weights(load(served[0]).named_parameters())
