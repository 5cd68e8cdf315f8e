from alignment.core.context import derive_seed
from alignment.generation.engine import Sampling, resolve_engine


def test_a_slice_of_the_prompts_has_the_seeds_it_has_in_the_whole_batch():
    whole = [Sampling(4, seed=3).request_seed(index) for index in range(6)]
    halves = [Sampling(4, seed=3, first=first).request_seed(index) for first in (0, 4) for index in range(6 - first)]
    assert halves[:4] + halves[6:] == whole
    assert len(set(whole)) == 6
    assert whole[5] == derive_seed(3, "request", "5")


def test_an_engine_that_is_named_is_taken_as_it_is():
    assert [resolve_engine(name) for name in ("hf", "vllm", "vllm_server")] == ["hf", "vllm", "vllm_server"]
