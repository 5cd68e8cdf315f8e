"""What the tests of engines share: changed models, adapters, and a server started as a user starts it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import torch
from ppo_models import EOS, reference_logprobs
from transformers import AutoModelForCausalLM

SIZES = {"max_prompt_tokens": 8, "max_new_tokens": 16, "batch_size": 16}
START_SECONDS = 300  # 25 s on two idle cores; most of it are imports


def gap(left, right):
    """Largest difference between two lists of lists of numbers."""
    return max(abs(a - b) for one, other in zip(left, right, strict=True) for a, b in zip(one, other, strict=True))


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def changed(model, seed):
    """The model, every weight moved by a little."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def adapted(folder, out, seed, **options):
    """A peft model with a LoRA adapter that is not zero, saved to `out`."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    settings = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | options
    model = get_peft_model(load(folder), LoraConfig(init_lora_weights=False, **settings)).eval()
    model.save_pretrained(out)
    return model


def by_model(model, completions, temperature):
    """log p of each response token, by plain forward passes."""
    return [reference_logprobs(model, c.prompt_ids, c.response_ids, temperature) for c in completions]


def probes_of(prompts):
    """Sequences to be judged, of several lengths."""
    return [ids + [5, EOS, 7] for ids in prompts[:9]]


def judged(model, probes):
    return [reference_logprobs(model, ids[:1], ids[1:], 1.0) for ids in probes]


def in_two_processes(script, *arguments):
    """Runs a script of this folder by torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(Path(__file__).with_name(script)), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=400,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]


@contextlib.contextmanager
def running_server(folder, log, *options):
    """The URL of a server, started by the documented command and stopped by SIGTERM."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "alignment.generation.server",
        folder,
        "--port",
        port,
        "--precision",
        "fp32",
        *options,
    ]
    with open(log, "w") as output:
        process = subprocess.Popen(
            list(map(str, command)), stdout=output, stderr=output, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(process, url, log)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process, url, log):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended: {log.read_text()[-3000:]}"
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health", trust_env=False).is_success:
                return
        time.sleep(0.5)
    raise AssertionError(f"no server after {START_SECONDS} s: {log.read_text()[-3000:]}")
