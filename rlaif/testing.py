"""What tests and notebooks use in place of what is large or far away: a tiny model, judges that are code, a recipe that
runs in seconds, an HTTP server whose answers a function gives.

Nothing here is part of a run. torch and transformers are imported by the functions that need them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from rlaif.config import Recipe
from rlaif.models.engine import ChatRequest

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token; the end of a turn and padding are tokens of their own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|pad|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    vocabulary |= {character: i for i, character in enumerate(alphabet, start=3)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def tiny_model(seed: int = 0, **changes: object) -> LlamaForCausalLM:
    """2 layers, 262 tokens, random weights, grouped-query attention, tied embeddings: the embedded model in small."""
    import torch  # noqa: PLC0415
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    settings: dict[str, object] = {
        "vocab_size": 262,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**(settings | changes))).eval()


def save_tiny(folder: str | Path, seed: int = 0, **changes: object) -> str:
    """Write model and tokenizer as a Hugging Face folder; returns its path as text."""
    tiny_model(seed, **changes).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


CONSTITUTION = """\
schema: rlaif/constitution/v1
id: letters
version: 1.0.0
title: Plain letters, no digits
principles:
  - id: plain-letters
    compare: Which response has more plain letters?
  - id: no-digits
    check: {kind: regex_absent, pattern: '[0-9]'}
"""


def small_recipe(folder: Path, model: str, prompts: int = 120, **changes: Any) -> Recipe:
    """A whole recipe in seconds: a tiny policy learns to write letters from a scripted judge that likes them.

    The constitution and the prompts are written into the folder; `changes` name dotted keys with `__` for the dot.
    """
    (folder / "letters.yaml").write_text(CONSTITUTION)
    rows = [json.dumps({"prompt": f"Say {number}"}) + "\n" for number in range(prompts)]
    (folder / "prompts.jsonl").write_text("".join(rows))
    values: dict[str, Any] = {
        "name": "letters",
        "title": "A tiny model learns to write letters",
        "constitution": str(folder / "letters.yaml"),
        "policy": {"backend": "local", "model": model, "dtype": "float32"},
        "judge": {"backend": "scripted", "model": "rlaif.testing:likes_letters"},
        "prompts": {"sources": [{"kind": "file", "path": str(folder / "prompts.jsonl")}], "heldout": 32},
        "sample": {"temperature": 1.0, "max_tokens": 16},
        "label": {"check_margin": 0.5},
        "preferences": {"tie_margin": 0.2, "heldout_share": 0.2},
        "reward": {"lora": None, "learning_rate": 5e-3, "epochs": 4, "minibatch_size": 16},
        "optimise": {
            "kind": "ppo",
            "steps": 20,
            "rollouts_per_step": 32,
            "minibatch_size": 32,
            "learning_rate": 1e-2,
            "critic_learning_rate": 1e-2,
            "lora": None,
            "critic_lora": None,
            "temperature": 1.0,
            "max_tokens": 16,
            "missing_eos_penalty": 0.0,
            "kl": {"kind": "fixed", "coef": 0.02},
        },
    }
    for key, value in changes.items():
        *sections, last = key.split("__")
        node = values
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    return Recipe.model_validate(values)


SHOWN = re.compile(r"<response_([ab])>\n(.*?)\n</response_\1>", re.DOTALL)
LABEL_MASS = 0.95
"""How much probability the two labels have together, as with a real model."""


def likes_letters(request: ChatRequest) -> dict[str, float]:
    """A judge, `judge.backend=scripted judge.model=rlaif.testing:likes_letters`: it prefers the response with more
    ASCII letters, and a little whatever stands first."""
    first, second = (letters(text) for text in shown(request))
    return choose(0.8 * (first - second) + 0.3)


def goes_on(request: ChatRequest) -> str:
    """A user, `optimise.dialogue.user: {backend: scripted, model: "rlaif.testing:goes_on"}`, who always wants more."""
    return "And what else?"


def shown(request: ChatRequest) -> tuple[str, str]:
    """The two responses, first and second as the judge sees them, where compare.jinja puts them."""
    found = dict(SHOWN.findall(request.messages[-1].content))
    return found["a"], found["b"]


def letters(text: str) -> int:
    """How many of the characters are ASCII letters."""
    return sum(c.isascii() and c.isalpha() for c in text)


def choose(log_odds: float) -> dict[str, float]:
    """Log-probabilities of the labels A and B where the first is better by these log-odds."""
    return {"A": math.log(LABEL_MASS) - soft(-log_odds), "B": math.log(LABEL_MASS) - soft(log_odds)}


def soft(x: float) -> float:
    """log(1 + e^x), without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


class Request(NamedTuple):
    """What a client sent."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def text(self) -> str:
        """The last turn of the conversation."""
        return str(self.body["messages"][-1]["content"])


class HttpAnswer(NamedTuple):
    """What the server sends back."""

    status: int = 200
    body: Any = None
    """JSON, or bytes to send as they are."""
    headers: Mapping[str, str | None] = MappingProxyType({})
    """None takes one away that would be sent."""


class FakeServer(NamedTuple):
    """A server that runs, and what it was asked."""

    url: str
    """Ends in /v1."""
    seen: Sequence[Request]

    def asked(self, end: str = "/chat/completions") -> list[Request]:
        """The requests to this path, in order."""
        return [request for request in self.seen if request.path.endswith(end)]


@contextmanager
def fake_server(handle: Callable[[Request], HttpAnswer | None]) -> Iterator[FakeServer]:
    """Serve `handle` on a free port until the block ends. Where it returns None the connection is closed unanswered."""
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
            """Nothing is printed."""

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


def completion(text: str | None, finish: str = "stop", logprobs: Mapping[str, float] | None = None) -> HttpAnswer:
    """A chat completion as vLLM writes it; `logprobs` are those of the likeliest first tokens."""
    top = [{"token": token, "logprob": value, "bytes": None} for token, value in (logprobs or {}).items()]
    content = [{"token": "x", "logprob": -0.1, "bytes": None, "top_logprobs": top}]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": finish,
        "logprobs": {"content": content} if logprobs is not None else None,
    }
    return HttpAnswer(body={"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})


def failed(status: int, message: str, **headers: str) -> HttpAnswer:
    """An error as OpenAI and vLLM write it."""
    return HttpAnswer(status, {"error": {"message": message, "code": status}}, headers)
