"""A vLLM server's part in rollouts, played by the model in the served folder: it writes, reads and reloads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from tests.fake_server import Answer, FakeServer, Request, failed, fake_server


class FakeProcess:
    """The server process as the sampler sees it."""

    def __init__(self) -> None:
        self.log = Path("fake.log")
        self.status: str | None = None
        self.stopped = 0

    def exit_status(self, patience_s: float = 0) -> str | None:
        return self.status

    def last_words(self) -> str:
        return "its last words"

    def stop(self) -> None:
        self.stopped += 1


class FakeVllm:
    """`faults` may answer a request instead (None: as a good server would); `deaf` reloads do nothing."""

    def __init__(self) -> None:
        self.process = FakeProcess()
        self.deaf = False
        self.raw = False
        self.faults: Callable[[Request], Answer | None] = lambda _request: None
        self.environment: dict[str, str] = {}
        self.config: Any = None
        self.server: FakeServer | None = None
        self._lock = Lock()
        self._model: Any = None

    def start(self, config: Any, resolved: Any, environment: Any) -> tuple[str, FakeProcess]:
        """In the place of `start_server`."""
        assert self.server is not None
        self.config, self.environment = config, dict(environment)
        self._load(resolved.path)
        return self.server.url, self.process

    def _load(self, folder: str) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(folder).eval()

    def handle(self, request: Request) -> Answer | None:
        with self._lock:
            if (answer := self.faults(request)) is not None:
                return None if answer.status == 0 else answer
            if request.path == "/collective_rpc":
                assert request.body["method"] == "reload_weights"
                if not self.deaf:
                    self._load(request.body["kwargs"]["weights_path"])
                return Answer(body={"results": [None]})
            if request.path == "/reset_prefix_cache":
                return Answer(body={"success": True})
            body = request.body
            choice = self._read(body) if body.get("prompt_logprobs") is not None else self._write(body)
            return Answer(body={"choices": [{"index": 0, **choice}]})

    @torch.no_grad()
    def _read(self, body: dict[str, Any]) -> dict[str, Any]:
        row = body["prompt"]
        logprobs = torch.log_softmax(self._model(torch.tensor([row])).logits[0], -1)
        told = [{str(token): {"logprob": float(logprobs[i, token])}} for i, token in enumerate(row[1:])]
        return {"prompt_logprobs": [None, *told]}

    @torch.no_grad()
    def _write(self, body: dict[str, Any]) -> dict[str, Any]:
        random = torch.Generator().manual_seed(body["seed"])
        ids, cache, written, found = list(body["prompt"]), DynamicCache(), [], []
        while len(written) < body["max_tokens"] and (not written or written[-1] not in body["stop_token_ids"]):
            logits = self._model(torch.tensor([ids]), past_key_values=cache).logits[0, -1]
            logprobs = torch.log_softmax(logits / body["temperature"], -1)
            ids = [int(torch.multinomial(logprobs.exp(), 1, generator=random))]
            written += ids
            found.append(float((torch.log_softmax(logits, -1) if self.raw else logprobs)[ids[0]]))
        return {"token_ids": written, "logprobs": {"token_logprobs": found}}


@contextmanager
def fake_vllm() -> Iterator[FakeVllm]:
    """Serve until the block ends; `start` goes where the sampler would start a server."""
    fake = FakeVllm()
    with fake_server(fake.handle) as server:
        fake.server = server
        yield fake


HANG_UP = Answer(status=0)
BUSY = failed(500, "oops")
