"""The server's worker extension in vLLM's real worker, without the server around it (which takes longer to start)."""

import importlib.util
from contextlib import contextmanager

import pytest
import torch
from engine_helpers import changed, gap, judged, load, probes_of
from ppo_models import prompts_of, save_tiny_model
from safetensors.torch import save_file

from alignment.generation.vllm_settings import ENVIRONMENT, probe_parameters

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
PROBES = probes_of(prompts_of(9))


@contextmanager
def vllm_with_extension(folder, shared):
    from vllm import LLM
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    llm = LLM(
        model=str(folder),
        skip_tokenizer_init=True,
        dtype="float32",
        max_model_len=24,
        kv_cache_memory_bytes=2**24,
        enforce_eager=True,
        enable_prefix_caching=False,
        worker_extension_cls="alignment.generation.worker_extension.SuiteWorkerExtension",
        additional_config={"weights_folder": str(shared)},
    )
    yield llm
    llm.llm_engine.engine_core.shutdown()
    cleanup_dist_env_and_memory()


def logprobs(llm):
    from vllm import SamplingParams

    with torch.compiler.set_stance("force_eager"):
        prompts = [{"prompt_token_ids": ids} for ids in PROBES]
        outputs = llm.generate(prompts, SamplingParams(**probe_parameters()), use_tqdm=False)
    return [
        [step[token].logprob for token, step in zip(ids[1:], output.prompt_logprobs[1:], strict=True)]
        for ids, output in zip(PROBES, outputs, strict=True)
    ]


@pytest.mark.parametrize("tied", [True, False])
def test_weights_from_a_file_arrive_whole_tied_ones_too_and_damaged_files_are_refused(tmp_path, monkeypatch, tied):
    for key, value in {**ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(torch, "set_num_threads", torch.set_num_threads)  # vLLM replaces it
    folder, shared = save_tiny_model(tmp_path / "model", tied), tmp_path / "shared"
    shared.mkdir()
    trainer, file = changed(load(folder), seed=1), shared / "weights.safetensors"
    save_file({name: weight.detach() for name, weight in trainer.named_parameters()}, file)
    size = file.stat().st_size
    with vllm_with_extension(folder, shared) as llm:

        def send(name, size):
            (answer,) = llm.collective_rpc("load_suite_weights", kwargs={"name": name, "size": str(size)})
            return answer

        (server,) = llm.collective_rpc("describe_suite_server")
        assert server["shape"]["tie_word_embeddings"] is tied
        assert server["shape"]["vocab_size"] == 40
        assert (server["precision"], server["adapter_rank"], server["weights_folder"]) == ("float32", None, str(shared))

        assert gap(logprobs(llm), judged(trainer, PROBES)) > 0.1
        assert f"holds {size} bytes here, {size + 1} were written" in send(file.name, size + 1)["error"]
        assert "does not exist on the server's machine" in send("none.safetensors", size)["error"]
        file.rename(tmp_path / "outside.safetensors")
        assert "does not exist on the server's machine" in send("../outside.safetensors", size)["error"]
        (tmp_path / "outside.safetensors").rename(file)
        assert gap(logprobs(llm), judged(load(folder), PROBES)) < 1e-4  # a refused file has changed nothing

        assert send(file.name, size) == {"loaded": len(list(trainer.named_parameters()))}
        assert gap(logprobs(llm), judged(trainer, PROBES)) < 1e-4
