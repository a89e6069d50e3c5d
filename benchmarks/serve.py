"""What the service costs over the model: the batches that it formed, once served and once in process.

    python benchmarks/serve.py                       the embedded model as a reward model, 1, 8 and 64 clients
    python benchmarks/serve.py --requests 512 --rounds 3

Each client asks OpenRLHF's protocol for one sample after the other, as trainers do: a new connection each time with
--fresh, else one that stays open. A round serves all requests and keeps the batches; then the same batches go to the
reward in this process. `share` is time in process over time served; the rest of the figures are seconds per request.
Clients are another process, so on few cores they take time from the model, as a trainer's would.

One client waits while the model works, so each of its requests is served and then computed in process: a machine that
changes its pace between two rounds changes it for both. Its share is that of the medians, with a 95 % bootstrap
interval; with several clients it is the median of the rounds, with the least and the most.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import multiprocessing
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import numpy as np
import torch

from rlaif.api.scorers import Scored
from rlaif.console import aligned
from rlaif.jsonl import read_objects
from rlaif.models.embedded import EMBEDDED, resolve_model
from rlaif.models.local.load import load_tokenizer
from rlaif.models.local.machine import resolve, torch_dtype
from rlaif.resources import resolve as shipped
from rlaif.serve.access import Access
from rlaif.serve.app import make_app
from rlaif.serve.opening import Wish, open_target
from rlaif.serve.records import ServiceLog
from rlaif.serve.server import Address, listen
from rlaif.serve.service import Limits, Service
from rlaif.serve.target import Question, Target
from rlaif.training.scalar_model import ScalarModel

RESPONSE_WORDS = 70


class Kept(Target):
    """A target that keeps its batches."""

    def __init__(self, target: Target) -> None:
        self.name, self.revision, self.workers = target.name, target.revision, target.workers
        self._target = target
        self.batches: list[list[Question]] = []

    def score(self, questions: Sequence[Question]) -> list[Scored]:
        self.batches.append(list(questions))
        return self._target.score(questions)


class Round(NamedTuple):
    """One load, served and in process."""

    served_s: float
    in_process_s: float
    waits: list[float]
    batches: int

    @property
    def share(self) -> float:
        """Of the rate in process."""
        return self.in_process_s / self.served_s


def model_folder(folder: Path) -> Path:
    """The embedded model with a new head, as a reward model's folder: what it says means nothing, its time does."""
    found, tokenizer = resolve_model(EMBEDDED), load_tokenizer(EMBEDDED)
    dtype = torch_dtype(resolve("auto"))
    ScalarModel.from_language_model(found.path, None, dtype, tokenizer.pad_token_id, 0).save(folder, tokenizer)
    return folder


def bodies(count: int, seed: int) -> list[dict[str, Any]]:
    """Requests as OpenRLHF writes them, of prompts that ship and responses of their words."""
    tokenizer, draw = load_tokenizer(EMBEDDED), random.Random(seed)
    prompts = [str(row["prompt"]) for _, row in read_objects(shipped("prompts/sets", "everyday"))]
    words = " ".join(prompts).split()
    made = []
    for number in range(count):
        turns = [{"role": "user", "content": f"{prompts[number % len(prompts)]} ({number})"}]
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        text = " ".join(draw.choices(words, k=draw.randint(RESPONSE_WORDS // 2, RESPONSE_WORDS * 3 // 2)))
        made.append({"query": [f"{prompt}{text}{tokenizer.eos_token}"], "prompts": [prompt], "labels": [""]})
    return made


def load(url: str, given: Sequence[dict[str, Any]], clients: int, fresh: bool, found: Any) -> None:
    """Ask all of it, so many at once; in a process of its own."""

    async def client(waiting: list[dict[str, Any]], session: aiohttp.ClientSession, waits: list[float]) -> None:
        while waiting:
            body = waiting.pop()
            began = time.perf_counter()
            async with session.post(url, json=body) as reply:
                reply.raise_for_status()
                await reply.json()
            waits.append(time.perf_counter() - began)

    async def everybody() -> tuple[float, list[float]]:
        waiting, waits = list(given), list[float]()
        connector = aiohttp.TCPConnector(limit=0, force_close=fresh)
        async with aiohttp.ClientSession(connector=connector) as session:
            began = time.perf_counter()
            await asyncio.gather(*(client(waiting, session, waits) for _ in range(clients)))
            return time.perf_counter() - began, waits

    found.put(asyncio.run(everybody()))


def one_round(kept: Kept, url: str, given: Sequence[dict[str, Any]], clients: int, fresh: bool) -> Round:
    kept.batches = []
    spawn = multiprocessing.get_context("spawn")
    found = spawn.Queue()
    process = spawn.Process(target=load, args=(url, given, clients, fresh, found))
    process.start()
    served, waits = found.get()
    process.join()
    batches = kept.batches
    began = time.perf_counter()
    for batch in batches:
        kept._target.score(batch)
    return Round(served, time.perf_counter() - began, waits, len(batches))


def in_turns(kept: Kept, url: str, given: Sequence[dict[str, Any]], fresh: bool) -> list[Round]:
    """Each request served, and then its batch in process."""
    address, found = urlsplit(url), list[Round]()
    connection = http.client.HTTPConnection(str(address.hostname), address.port)

    def served(body: dict[str, Any]) -> float:
        began = time.perf_counter()
        connection.request("POST", address.path, json.dumps(body), {"Content-Type": "application/json"})
        with connection.getresponse() as reply:
            reply.read()
        if fresh:
            connection.close()
        assert reply.status == 200, reply.status
        return time.perf_counter() - began

    for body in given:
        kept.batches = []
        outside = served(body)
        began = time.perf_counter()
        for batch in list(kept.batches):
            kept._target.score(batch)
        found.append(Round(outside, time.perf_counter() - began, [outside], 1))
    connection.close()
    return found


def share_of_medians(rounds: Sequence[Round]) -> tuple[float, float, float]:
    """With its 95 % bootstrap interval over requests."""
    times = np.array([(one.in_process_s, one.served_s) for one in rounds])
    drawn = times[np.random.default_rng(0).integers(0, len(times), (2000, len(times)))]
    inside, outside = np.moveaxis(np.median(drawn, axis=1), -1, 0)
    middle = np.median(times, axis=0)
    low, high = np.percentile(inside / outside, [2.5, 97.5])
    return float(middle[0] / middle[1]), float(low), float(high)


def serve_in_thread(service: Service, stack: ExitStack) -> str:
    import uvicorn  # noqa: PLC0415

    listening = stack.enter_context(closing(listen(Address(port=0))))
    config = uvicorn.Config(
        make_app(service, Access()), log_level="warning", access_log=False, lifespan="off", ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
    thread.start()

    def end() -> None:
        server.should_exit = True
        thread.join()

    stack.callback(end)
    return f"http://127.0.0.1:{listening.getsockname()[1]}/get_reward"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--fresh", action="store_true", help="a new connection for each request")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        opened = open_target(Wish(str(model_folder(Path(folder) / "rm"))), "benchmark")
        kept = Kept(opened.target)
        service = stack.enter_context(
            closing(Service(kept, opened.parser, ServiceLog(Path(folder) / "service"), Limits()))
        )
        url = serve_in_thread(service, stack)
        given = bodies(options.requests, 0)
        one_round(kept, url, given[:8], 2, options.fresh)  # what is slow once
        rows = [("clients", "requests/s", "p50 s", "p99 s", "per batch", "share of the rate in process", "interval")]
        for clients in options.clients:
            if clients == 1:
                some = given[: max(32, options.requests // 4)]
                rounds = [one for _ in range(options.rounds) for one in in_turns(kept, url, some, options.fresh)]
                share, low, high = share_of_medians(rounds)
                rate = 1 / statistics.median(one.served_s for one in rounds)
            else:
                rounds = [one_round(kept, url, given, clients, options.fresh) for _ in range(options.rounds)]
                shares = [one.share for one in rounds]
                low, high = min(shares), max(shares)
                share = statistics.median(shares)
                rate = len(given) / statistics.median(one.served_s for one in rounds)
            waits = [wait for one in rounds for wait in one.waits]
            p50, p99 = np.percentile(waits, [50, 99])
            per_batch = len(waits) / sum(one.batches for one in rounds)
            times = f"{rate:.1f}", f"{p50:.3f}", f"{p99:.3f}"
            rows.append((str(clients), *times, f"{per_batch:.1f}", f"{share:.3f}", f"{low:.3f} to {high:.3f}"))
        print(f"{torch.get_num_threads()} threads, {resolve('auto')}, {json.dumps(vars(options))}")
        print("\n".join(aligned(rows)))


if __name__ == "__main__":
    main()
