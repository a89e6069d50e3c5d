"""What a guard adds to a policy's latency, and what it does not: ratios to the bare policy, asked the same way.

    python benchmarks/guard.py                 # a server that answers at once behind it: what is measured is rlaif's
    python benchmarks/guard.py --local         # the embedded model in this process, by checks alone

Each arm is asked in turns of the others, so that a busy machine slows all alike. Server, guard and clients are
processes of their own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from rlaif.config.models import ClientModel, LocalModel
from rlaif.models.engine import ChatRequest, ask
from rlaif.models.open import open_model
from rlaif.records import Message
from rlaif.serve.access import Access
from rlaif.serve.guard.config import GuardSection
from rlaif.serve.guard.service import GuardService, open_guard
from rlaif.serve.records import ServiceLog
from rlaif.serve.server import Address, listen
from rlaif.serve.service import Limits
from rlaif.testing import completion, failed

ANSWER = "Rain is water that falls from clouds when the drops in them grow heavy."
CHECKED = """\
schema: rlaif/constitution/v1
id: checked
version: 1.0.0
title: What code decides
principles:
  - {id: brief, check: {kind: max_words, limit: 60}}
  - {id: whole, check: {kind: ends_in_sentence}}
  - {id: no-promise, check: {kind: regex_absent, pattern: '(?i)guarantee'}}
"""
JUDGED = "  - {id: plain, compare: 'Which is plainer?', question: 'Is it plain?', desired: 'yes'}\n"
ROUNDS, REQUESTS = 4, 100


async def at_once(scope: Any, receive: Any, send: Any) -> None:
    """A policy, and a judge that likes everything, as an ASGI application."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    known = scope["path"].endswith("/chat/completions")
    if known and json.loads(body).get("logprobs"):
        answer = completion("Yes", logprobs={"Yes": -0.01, "No": -5.0, "Unknown": -9.0})
    else:
        answer = completion(ANSWER) if known else failed(404, "no such address")
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(answer.body).encode()})


def serve(app: Any, address: Any) -> None:
    """On a free port, which is put into `address`."""
    import uvicorn  # noqa: PLC0415 (an extra)

    listening = listen(Address(port=0))
    address.put(f"http://127.0.0.1:{listening.getsockname()[1]}/v1")
    uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off")).run(sockets=[listening])


def backend(address: Any) -> None:
    """A process that answers at once."""
    serve(at_once, address)


def guarded(address: Any, section: GuardSection, policy: ClientModel | LocalModel, folder: str) -> None:
    """A process that serves a guard."""
    with open_guard(section, policy) as (guard, workers):
        service = GuardService(guard, "policy", ServiceLog(Path(folder)), Limits(), workers)
        serve(service.app(Access(), None), address)


@contextmanager
def beside(work: Callable[..., None], *arguments: Any) -> Iterator[str]:
    """The address of what a process serves, until the block ends."""
    context = multiprocessing.get_context("spawn")
    address = context.Queue()
    process = context.Process(target=work, args=(address, *arguments), daemon=True)
    process.start()
    try:
        yield address.get(timeout=100)
    finally:
        process.kill()
        process.join()


def times(url: str, clients: int, requests: int, **body: Any) -> list[float]:
    """Seconds of each request, so many clients asking at once."""
    asked = {"model": "policy", "messages": [{"role": "user", "content": "What is rain?"}], **body}

    def one(client: httpx.Client) -> list[float]:
        found = []
        for _ in range(requests // clients):
            began = time.perf_counter()
            client.post(f"{url}/chat/completions", json=asked).raise_for_status()
            found.append(time.perf_counter() - began)
        return found

    with ExitStack() as stack, ThreadPoolExecutor(clients) as pool:
        opened = [stack.enter_context(httpx.Client(timeout=120, trust_env=False)) for _ in range(clients)]
        return [seconds for part in pool.map(one, opened) for seconds in part]


def say(arm: str, clients: int, seconds: list[float], bare: list[float]) -> None:
    p50, p99 = (1000 * np.percentile(seconds, q) for q in (50, 99))
    added = p50 - 1000 * np.percentile(bare, 50)
    print(f"{arm:<28} {clients:>7} {p50:>9.2f} {p99:>9.2f} {added:>9.2f} {len(seconds):>9}")


def served(folder: Path) -> None:
    """Before a server that answers at once."""
    (folder / "checked.yaml").write_text(CHECKED)
    (folder / "judged.yaml").write_text(CHECKED + JUDGED)
    with ExitStack() as stack:
        url = stack.enter_context(beside(backend))
        model = ClientModel(model="policy", base_urls=(url,))
        arms = {"bare": url}
        for name, more in (
            ("checks", {"constitution": "checked.yaml", "feedback": False}),
            ("checks, feedback kept", {"constitution": "checked.yaml"}),
            ("checks, judge, feedback kept", {"constitution": "judged.yaml", "judge": model}),
        ):
            values = {**more, "constitution": str(folder / str(more["constitution"]))}
            section = GuardSection.model_validate(values)
            arms[name] = stack.enter_context(beside(guarded, section, model, str(folder / name)))
        for clients in (1, 8):
            found: dict[str, list[float]] = {arm: [] for arm in arms}
            for number in range(ROUNDS + 1):
                for arm, address in arms.items():
                    seconds = times(address, clients, REQUESTS)
                    found[arm] += seconds if number else []  # the first is a warm-up
            for arm in arms:
                say(arm, clients, found[arm], found["bare"])


def local(folder: Path, tokens: int, requests: int) -> None:
    """The embedded model, asked in this process and behind a guard."""
    (folder / "checked.yaml").write_text(CHECKED)
    model = LocalModel(model="smollm2-135m")
    section = GuardSection(constitution=str(folder / "checked.yaml"))
    request = ChatRequest(messages=(Message(role="user", content="What is rain?"),), max_tokens=tokens)
    with beside(guarded, section, model, str(folder / "local")) as url:
        engine = open_model(model)
        bare, guard = [], []
        for number in range(requests + 1):
            began = time.perf_counter()
            ask(engine, [request])
            between = time.perf_counter()
            (seconds,) = times(url, 1, 1, max_tokens=tokens, temperature=0)
            if number:
                bare.append(between - began)
                guard.append(seconds)
        say("bare, in process", 1, bare, bare)
        say("checks, feedback kept", 1, guard, bare)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--local", action="store_true")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--requests", type=int, default=20)
    given = parser.parse_args()
    print(f"{'':<28} {'clients':>7} {'p50 ms':>9} {'p99 ms':>9} {'added ms':>9} {'requests':>9}")
    with tempfile.TemporaryDirectory() as folder:
        if given.local:
            local(Path(folder), given.tokens, given.requests)
        else:
            served(Path(folder))


if __name__ == "__main__":
    main()
