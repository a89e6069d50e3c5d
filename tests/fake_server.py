"""An HTTP server in this process whose answers a function scripts: `handle(Request) -> Answer`, or None to hang up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import MappingProxyType
from typing import Any, NamedTuple


class Request(NamedTuple):
    path: str
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def text(self) -> str:
        """The last turn of the conversation."""
        return self.body["messages"][-1]["content"]


class Answer(NamedTuple):
    status: int = 200
    body: Any = None
    """JSON, or bytes to send as they are."""
    headers: Mapping[str, str | None] = MappingProxyType({})
    """None takes one away that would be sent."""


Handle = Callable[[Request], Answer | None]


class FakeServer(NamedTuple):
    url: str
    """Ends in /v1."""
    seen: list[Request]

    def asked(self, end: str = "/chat/completions") -> list[Request]:
        return [request for request in self.seen if request.path.endswith(end)]


@contextmanager
def fake_server(handle: Handle) -> Iterator[FakeServer]:
    """Serve on a free port until the block ends."""
    seen: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._serve(b"")

        def do_POST(self) -> None:
            self._serve(self.rfile.read(int(self.headers["Content-Length"])))

        def _serve(self, data: bytes) -> None:
            request = Request(self.path, json.loads(data or b"{}"), dict(self.headers))
            seen.append(request)
            answer = handle(request)
            if answer is None:
                self.close_connection = True
                return
            payload = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(payload)), **answer.headers}.items():
                if value is not None:
                    self.send_header(name, value)
            self.close_connection = "Transfer-Encoding" in answer.headers
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 64

        def handle_error(self, *_: object) -> None:
            """A client that gave up and hung up is part of some tests."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield FakeServer(f"http://127.0.0.1:{server.server_port}/v1", seen)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def completion(text: str | None, finish: str = "stop", logprobs: dict[str, float] | None = None) -> Answer:
    """A chat completion as vLLM writes it."""
    top = [{"token": token, "logprob": value, "bytes": None} for token, value in (logprobs or {}).items()]
    content = [{"token": "x", "logprob": -0.1, "bytes": None, "top_logprobs": top}]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": finish,
        "logprobs": {"content": content} if logprobs is not None else None,
    }
    return Answer(body={"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})


def failed(status: int, message: str, **headers: str) -> Answer:
    """An error as OpenAI and vLLM write it."""
    return Answer(status, {"error": {"message": message, "code": status}}, headers)


def tokenized(body: dict[str, Any], vocabulary: Mapping[str, int]) -> dict[str, Any]:
    """What vLLM's /tokenize says of a prompt or a conversation: the longest known piece each time, else a character."""
    text = body.get("prompt") or "".join(f"<{turn['role']}>{turn['content']}" for turn in body["messages"])
    if "messages" in body:
        answered = body["messages"][-1]["role"] == "assistant" and not body.get("add_generation_prompt")
        text += "<end>" if answered else "<assistant>" * bool(body.get("add_generation_prompt"))
    pieces: list[str] = []
    while text:
        known = [piece for piece in vocabulary if text.startswith(piece)]
        pieces.append(max(known, key=len, default=text[0]))
        text = text[len(pieces[-1]) :]
    return {
        "tokens": [vocabulary.get(piece, 1000 + ord(piece[0])) for piece in pieces],
        "token_strs": [piece if piece in vocabulary else "?" for piece in pieces],
    }
