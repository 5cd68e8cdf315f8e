"""What a user is told who names the wrong URL."""

import http.server
import socket
import threading

import pytest

from alignment.core.errors import ModelError, SuiteError
from alignment.generation.open import open_engine

SIZES = {"max_prompt_tokens": 8, "max_new_tokens": 8, "batch_size": 2}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def other_server(tmp_path):
    """A web server that knows nothing of models."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_no_server(tiny_folder):
    with pytest.raises(SuiteError, match=r"no server answers here(.|\n)*python -m alignment.generation.server"):
        open_engine("vllm_server", tiny_folder, url=f"http://127.0.0.1:{free_port()}", **SIZES)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://127.0.0.1:eight"])
def test_an_address_that_is_none(tiny_folder, url):
    with pytest.raises(SuiteError, match="no server answers here"):
        open_engine("vllm_server", tiny_folder, url=url, **SIZES)


def test_no_address(tiny_folder):
    with pytest.raises(ModelError, match=r"rollout.url: not given"):
        open_engine("vllm_server", tiny_folder, **SIZES)


def test_a_server_without_the_worker_extension(tiny_folder, other_server):
    with pytest.raises(SuiteError, match=r"does not answer describe_suite_server(.|\n)*worker extension"):
        open_engine("vllm_server", tiny_folder, url=other_server, **SIZES)
