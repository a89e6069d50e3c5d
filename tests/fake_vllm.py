"""A vLLM server's part in rollouts, played by the model in the served folder: it writes, reads and reloads. Its part in
reading given answers: `FakeReader`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, DynamicCache

from rlaif.testing import FakeServer, HttpAnswer, Request, failed, fake_server


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
        self.faults: Callable[[Request], HttpAnswer | None] = lambda _request: None
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

    def handle(self, request: Request) -> HttpAnswer | None:
        with self._lock:
            if (answer := self.faults(request)) is not None:
                return None if answer.status == 0 else answer
            if request.path == "/collective_rpc":
                assert request.body["method"] == "reload_weights"
                if not self.deaf:
                    self._load(request.body["kwargs"]["weights_path"])
                return HttpAnswer(body={"results": [None]})
            if request.path == "/reset_prefix_cache":
                return HttpAnswer(body={"success": True})
            body = request.body
            choice = self._read(body) if body.get("prompt_logprobs") is not None else self._write(body)
            return HttpAnswer(body={"choices": [{"index": 0, **choice}]})

    @torch.no_grad()
    def _read(self, body: dict[str, Any]) -> dict[str, Any]:
        row = body["prompt"]
        logprobs = torch.log_softmax(self._model(torch.tensor([row])).logits[0], -1)
        told = [{str(token): {"logprob": float(logprobs[i, token])}} for i, token in enumerate(row[1:])]
        return {"prompt_logprobs": [None, *told]}

    @torch.no_grad()
    def _write(self, body: dict[str, Any]) -> dict[str, Any]:
        random = torch.Generator().manual_seed(body["seed"])
        ids, cache, written, found = list(body["prompt"]), DynamicCache(), list[int](), list[float]()
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


HANG_UP = HttpAnswer(status=0)
BUSY = failed(500, "oops")


class FakeReader:
    """A vLLM server's part in reading given answers: it knows a tokenizer, and what its model says of a row's tokens.

    `shares`: it has /inference/v1/generate and a prefix cache of whole blocks; `tells`: how far that reached, too.
    `faults` may answer a request instead, as in `FakeVllm`.
    """

    BLOCK = 8

    def __init__(
        self, tokenizer: Any, logprobs: Callable[[Sequence[int]], Sequence[float]], *, shares: bool, context: int = 2048
    ) -> None:
        self.shares, self.tells, self.second_runner = shares, True, False
        self.faults: Callable[[Request], HttpAnswer | None] = lambda _request: None
        self.from_cache = 0
        """Tokens that were not read again."""
        self._tokenizer, self._logprobs, self._context = tokenizer, logprobs, context
        self._cached: set[tuple[int, ...]] = set()
        self._lock = Lock()

    def handle(self, request: Request) -> HttpAnswer | None:
        with self._lock:
            if (answer := self.faults(request)) is not None:
                return None if answer.status == 0 else answer
            body = request.body
            match request.path:
                case "/tokenize":
                    return self._tokenize(body)
                case "/v1/models":
                    return HttpAnswer(body={"data": [{"id": "judge"}]})
                case "/v1/completions":
                    return self._read(body["prompt"], body["prompt_logprobs"])
                case "/inference/v1/generate" if self.shares:
                    told = body["sampling_params"]
                    return self._read_on(body["token_ids"], told["prompt_logprobs"], told["skip_reading_prefix_cache"])
            return HttpAnswer(404, {"detail": "Not Found"})

    def _tokenize(self, body: dict[str, Any]) -> HttpAnswer:
        try:
            if "messages" in body:
                words = body.get("chat_template_kwargs") or {}
                ids = self._tokenizer.apply_chat_template(
                    body["messages"], add_generation_prompt=body["add_generation_prompt"], return_dict=False, **words
                )
            else:
                ids = self._tokenizer.encode(body["prompt"], add_special_tokens=body["add_special_tokens"])
        except TemplateError as error:
            return failed(400, str(error))
        texts = self._tokenizer.convert_ids_to_tokens(ids) if body.get("return_token_strs") else None
        told = {"tokens": ids, "token_strs": texts, "count": len(ids), "max_model_len": self._context}
        return HttpAnswer(body=told)

    def _rows(self, row: Sequence[int], begin: int = 1) -> list[dict[str, Any]]:
        logprobs = self._logprobs(row)
        return [{str(row[i]): {"logprob": logprobs[i - 1], "rank": 1}} for i in range(begin, len(row))]

    def _read(self, row: list[int], count: int) -> HttpAnswer:
        assert count == 0
        choice = {"index": 0, "text": "x", "prompt_logprobs": [None, *self._rows(row)]}
        return HttpAnswer(body={"choices": [choice], "usage": {"prompt_tokens": len(row)}})

    def _read_on(self, row: list[int], count: int, anew: bool) -> HttpAnswer:
        assert count == 0 and not anew
        blocks = [tuple(row[:end]) for end in range(self.BLOCK, len(row), self.BLOCK)]  # never the last token
        known = [len(block) for block in blocks if block in self._cached]
        cached = max(known, default=0)
        self.from_cache += cached
        self._cached |= {*blocks, *([tuple(row)] if len(row) % self.BLOCK == 0 else [])}
        # What is in memory may look like a log-probability, even of the right token.
        stale = [{str(token): {"logprob": -1e-3, "rank": -7}} for token in row[1 : cached + 1]]
        rows = [None, *([] if self.second_runner else stale), *self._rows(row, cached + 1)]
        details = {"cached_tokens": cached} if self.tells else None
        usage = {"prompt_tokens": len(row), "prompt_tokens_details": details}
        return HttpAnswer(body={"prompt_logprobs": rows, "usage": usage, "choices": [{"index": 0, "token_ids": [1]}]})
