"""Talking to a vLLM server over HTTP, and what a trainer must find there before it sends anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from alignment.core.config import Precision
from alignment.core.errors import ModelError, SuiteError
from alignment.generation.vllm_settings import DTYPES
from alignment.generation.worker_extension import shape_of
from alignment.models.load import read_config

START = "python -m alignment.generation.server MODEL"
_TIMEOUT = httpx.Timeout(600.0, connect=10.0)  # seconds; an answer may wait long for its turn


class ServerClient:
    """JSON over HTTP, every failure a SuiteError that names the server. Used by many threads at once."""

    def __init__(self, url: str, connections: int) -> None:
        self.url = url.rstrip("/")
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        try:
            self._http = httpx.Client(base_url=self.url, timeout=_TIMEOUT, limits=limits, trust_env=False)
        except (httpx.InvalidURL, ValueError) as error:
            raise self._no_server(error) from None

    def get(self, path: str) -> Any:
        """The answer's JSON."""
        return self._json(self._request("GET", path))

    def post(self, path: str, body: Any = None, missing_ok: bool = False) -> Any:
        """The answer's JSON; None if it is not JSON. missing_ok: HTTP 404 is no failure."""
        return self._json(self._request("POST", path, body, missing_ok))

    def call_workers(self, method: str, **arguments: str) -> dict[str, Any]:
        """Run a method of the suite's worker extension on all workers; the first one's answer.

        Raises SuiteError if the server lacks the extension, or with what a worker says went wrong.
        """
        answer = self._send("POST", "collective_rpc", {"method": method, "kwargs": arguments})
        results = (self._json(answer) or {}).get("results") if answer.is_success else None
        if results is None:
            raise SuiteError(
                self.url,
                f"the server does not answer {method} (HTTP {answer.status_code})",
                "a vLLM server with this suite's worker extension",
                f"start it by: {START}",
            )
        for result in results:
            if "error" in result:
                raise SuiteError(
                    self.url,
                    result["error"],
                    "a weights folder that trainer and server both see, under one path",
                    f"start the server with a shared folder: {START} --weights-folder FOLDER",
                )
        return results[0]

    def close(self) -> None:
        self._http.close()

    def _request(self, verb: str, path: str, body: Any = None, missing_ok: bool = False) -> httpx.Response:
        answer = self._send(verb, path, body)
        if answer.is_error and not (missing_ok and answer.status_code == httpx.codes.NOT_FOUND):
            raise SuiteError(
                self.url,
                f"{verb} /{path}: HTTP {answer.status_code}: {answer.text[:500]}",
                "a vLLM server started by this suite",
                f"see the server's log; start it by: {START}",
            )
        return answer

    def _send(self, verb: str, path: str, body: Any = None) -> httpx.Response:
        try:
            return self._http.request(verb, path, json=body)
        except (httpx.TransportError, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise self._no_server(error) from None

    def _json(self, answer: httpx.Response) -> Any:
        return answer.json() if "json" in answer.headers.get("content-type", "") else None

    def _no_server(self, error: Exception) -> SuiteError:
        return SuiteError(
            self.url,
            f"no server answers here ({type(error).__name__}: {error})",
            "the URL of a running vLLM server, such as http://127.0.0.1:8000",
            f"start it by: {START}, or correct rollout.url",
        )


@dataclass(frozen=True)
class Served:
    """model: the name that requests call it by. weights_folder: where weights are handed over."""

    model: str
    version: str
    weights_folder: Path


def require_model(
    client: ServerClient, model_path: Path, max_tokens: int, precision: Precision, adapter_rank: int | None
) -> Served:
    """What the server serves. Raises ModelError if weights of `model_path` do not fit it, or its context, precision or room
    for adapters is not what the run needs; SuiteError if nothing answers, or a server without the worker extension."""
    found = client.call_workers("describe_suite_server")
    (model, *_) = client.get("v1/models")["data"]
    own, restart = shape_of(read_config(model_path).get_text_config()), f"start it anew: {START}"
    for name, value in own.items():
        if found["shape"].get(name) != value:
            what = f"it serves another model ({model['id']}): {name} is {found['shape'].get(name)}"
            raise ModelError(client.url, what, f"{value}, as in {model_path}", f"start it with this model: {START}")
    if found["precision"] != DTYPES[precision]:
        what, expected = f"it computes in {found['precision']}", DTYPES[precision]
        raise ModelError(client.url, what, expected, f"{restart} --precision {precision}, or change precision")
    if (context := model["max_model_len"]) < max_tokens:
        what = f"its context of {context} tokens is too short"
        raise ModelError(client.url, what, f"at least {max_tokens}", f"{restart} --max-model-len {max_tokens}")
    if adapter_rank is not None and (found["adapter_rank"] or 0) < adapter_rank:
        what = f"it serves adapters of rank {found['adapter_rank'] or 0} at most"
        raise ModelError(client.url, what, f"rank {adapter_rank}", f"{restart} --adapter-rank {adapter_rank}")
    version = client.get("version")["version"].split("+")[0]
    return Served(model["id"], version, Path(found["weights_folder"]))
