"""Rollouts by a vLLM server at a URL, started by `python -m alignment.generation.server`: see there."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed

from alignment.core.config import Precision
from alignment.core.errors import SuiteError
from alignment.generation.adapters import adapter_name, check_adapter
from alignment.generation.engine import Completion, Sampling
from alignment.generation.server_client import START, ServerClient, require_model
from alignment.generation.stopping import cut_at_eos
from alignment.generation.vllm_settings import DTYPES, probe_parameters, sampling_parameters
from alignment.generation.weights import complete, outline_of


class VllmServerEngine:
    """One request per prompt, `batch_size` of them under way at once. Weights travel as a file in the server's folder."""

    def __init__(
        self,
        model_path: Path,
        *,
        url: str,
        max_tokens: int,
        batch_size: int,
        precision: Precision,
        eos: tuple[int, ...],
        adapter_rank: int | None = None,
    ) -> None:
        self._eos, self._adapter_rank = eos, adapter_rank
        self._dtype, self._outline = getattr(torch, DTYPES[precision]), outline_of(model_path)
        self._client = ServerClient(url, batch_size)
        self._threads = ThreadPoolExecutor(batch_size, thread_name_prefix="rollout")
        self._adapter: str | None = None
        try:
            self._served = require_model(self._client, model_path, max_tokens, precision, adapter_rank)
            self._send_stored(model_path)
        except BaseException:
            self.close()
            raise
        self.name = f"vLLM {self._served.version} (server)"

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[Completion]:
        """One completion per prompt, in order. A response depends on its own seed alone."""
        requests = [sampling_parameters(sampling, index, self._eos) for index in range(len(prompts))]
        return list(self._threads.map(self._complete, prompts, requests))

    def logprobs(self, sequences: Sequence[list[int]]) -> list[list[float]]:
        """log p(token t | < t) at temperature 1, for t >= 1 of each sequence. It must leave room for one token more."""
        return list(self._threads.map(self._judge, sequences))

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replace the server's weights; of several processes one sends them. Raises ValueError if a weight is missing,
        SuiteError if the server cannot read them."""
        self._drop_adapter()
        self._send(complete(weights, self._outline.parameters))

    def load_adapter(self, folder: Path) -> None:
        """Serve this LoRA adapter; of several processes each calls this, with the same adapter. Raises ModelError if vLLM
        cannot serve it, SuiteError if the server cannot read it."""
        check_adapter(folder, self._adapter_rank, self._outline)
        # Named by what it holds: vLLM keeps adapters by name, and processes that load the same one share it.
        name = adapter_name(folder)
        if name == self._adapter:
            return
        self._drop_adapter()
        request = {"lora_name": name, "lora_path": str(self._hand_over(folder, name)), "load_inplace": True}
        self._client.post("v1/load_lora_adapter", request)
        self._adapter = name

    def sleep(self) -> None:
        """Without effect: the server has memory of its own, and putting it to sleep would abort other processes' requests."""

    def wake(self) -> None:
        """Without effect."""

    def close(self) -> None:
        """Lets go of the server, which goes on with the weights it has, without the adapter."""
        with contextlib.suppress(SuiteError):  # it may be gone already
            self._drop_adapter()
        self._threads.shutdown(cancel_futures=True)
        self._client.close()

    def _complete(self, prompt: list[int], request: Mapping[str, Any]) -> Completion:
        (choice,) = self._ask(prompt, request)["choices"]
        response, finished = cut_at_eos(choice["token_ids"], self._eos)
        steps = choice["logprobs"]["content"][: len(response)]
        return Completion(prompt, response, [step["logprob"] for step in steps], finished)

    def _judge(self, ids: list[int]) -> list[float]:
        steps = self._ask(ids, probe_parameters())["prompt_logprobs"]
        return [step[str(token)]["logprob"] for token, step in zip(ids[1:], steps[1:], strict=True)]

    def _ask(self, ids: list[int], parameters: Mapping[str, Any]) -> Any:
        request = {"model": self._adapter or self._served.model, "token_ids": ids, "sampling_params": parameters}
        return self._client.post("inference/v1/generate", request)

    def _send(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        # Copies: tied weights share memory, which the format does not allow.
        tensors = {name: weight.to("cpu", self._dtype, copy=True).contiguous() for name, weight in weights}
        path = self._served.weights_folder / f"{uuid.uuid4().hex}.safetensors"
        try:
            save_file(tensors, path)
            self._client.call_workers("load_suite_weights", name=path.name, size=str(path.stat().st_size))
        except (OSError, SafetensorError) as error:
            raise self._unwritable(error) from None
        finally:
            path.unlink(missing_ok=True)

    def _send_stored(self, model_path: Path) -> None:
        """The model folder's weights: the server was started once, and may have served another run since. Of several
        processes the first sends them, and none goes on before: its next weights must not be overwritten by these."""
        together = distributed.is_initialized()
        if not together or distributed.get_rank() == 0:
            self._send(_stored(model_path))
        if together:
            distributed.barrier()

    def _hand_over(self, adapter: Path, name: str) -> Path:
        """The adapter's place in the shared folder, complete from the moment it is there."""
        place, draft = (self._served.weights_folder / part for part in (name, f"{name}-{uuid.uuid4().hex}"))
        try:
            shutil.copytree(adapter, draft)
            with contextlib.suppress(OSError):  # another process was faster
                draft.rename(place)
            shutil.rmtree(draft, ignore_errors=True)
        except OSError as error:
            raise self._unwritable(error) from None
        return place

    def _drop_adapter(self) -> None:
        if self._adapter is not None:
            name, self._adapter = self._adapter, None
            # Another process may have been here before.
            self._client.post("v1/unload_lora_adapter", {"lora_name": name}, missing_ok=True)
            shutil.rmtree(self._served.weights_folder / name, ignore_errors=True)

    def _unwritable(self, error: Exception) -> SuiteError:
        return SuiteError(
            str(self._served.weights_folder),
            f"cannot hand over weights to {self._client.url} in this folder: {error}",
            "a folder that trainer and server both see, under one path, with room for the weights",
            f"start the server with a shared folder: {START} --weights-folder FOLDER",
        )


def _stored(model_path: Path) -> Iterator[tuple[str, Tensor]]:
    """The weights of a model folder, as they are named there."""
    for file in sorted(model_path.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dictionary
                yield name, tensors.get_tensor(name)
