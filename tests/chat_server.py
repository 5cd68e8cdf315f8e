"""A local server with OpenAI's chat completions, for tests: a judge whose mind is a function."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ChatServer:
    """reply(text of the request) -> what the judge says, or (status, headers, body) to send as it is.
    requests: (headers, body) of every chat completion asked for."""

    def __init__(self, reply):
        self.requests = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self._send(200, {}, {"data": [{"id": "judge"}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((dict(self.headers), body))
                said = (
                    reply(body["messages"][0]["content"]) if self.path.endswith("/chat/completions") else (404, {}, {})
                )
                if isinstance(said, str | None):
                    said = (200, {}, {"choices": [{"message": {"role": "assistant", "content": said}}]})
                self._send(*said)

            def _send(self, status, headers, body):
                data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def start(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def serving(reply):
    server = ChatServer(reply)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def shown(text: str) -> tuple[str, str]:
    """Answers A and B of the default template."""
    first = text.split("[Answer A]\n")[1].split("\n\n[Answer B]")[0]
    return first, text.split("[Answer B]\n")[1].split("\n\nJudge by")[0]


def prefers_the_longer(text: str) -> str:
    first, second = shown(text)
    return "A" if len(first) > len(second) else "B" if len(second) > len(first) else "C"
