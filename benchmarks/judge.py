"""How close judging comes to what the server can do: rlaif's own road against the same requests sent raw.

    python benchmarks/judge.py                                  a vLLM server on this machine, embedded model
    python benchmarks/judge.py --model Qwen/Qwen3-8B --pairs 512
    python benchmarks/judge.py --only modes --pairs 6           what contrast costs beside compare, and no more

Both sides send the same requests to the same server with the same number in flight, in turns, each on an empty
prefix cache. `raw` is an aiohttp client of a dozen lines whose bodies are ready before the clock starts: the ceiling.
`rlaif` is SingleJudge through the reply cache, rendering and parsing included. Figures are medians over the rounds;
ratios are what to compare between machines. Then `contrast`, in both templates and with an empty `against`, beside
`compare`: the same pairs, one principle and eight.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import httpx

from benchmarks.recorder import Recorder

os.environ["VLLM_SERVER_DEV_MODE"] = "1"  # for /reset_prefix_cache

from rlaif.config.feedback import LabelSection
from rlaif.config.judging import CompareMode, ContrastMode, MemberMode
from rlaif.config.models import ClientModel, VllmModel
from rlaif.constitution import Constitution
from rlaif.feedback.judge import SingleJudge
from rlaif.feedback.judge.result import Cost
from rlaif.jsonl import read_objects
from rlaif.models.cache import CachedModel
from rlaif.models.client import HttpChatModel
from rlaif.models.client.reading import find_label_ids
from rlaif.models.engine import ChatRequest
from rlaif.models.server import VllmChatModel
from rlaif.models.wire import LabelIds, Tokens, request_body, tokenized
from rlaif.records import Message, Pair, Prompt
from rlaif.resources import resolve
from rlaif.templates import load_template

TEMPLATE = load_template("compare")
SECTION = LabelSection(min_label_mass=0.0)
PAIR_TOKENS = 512
PRINCIPLES = 8
WAYS: dict[str, tuple[MemberMode, bool]] = {
    "compare": (CompareMode(), True),
    "contrast": (ContrastMode(), True),
    "contrast-wrapped": (ContrastMode(template="contrast-wrapped"), True),
    "contrast, no against": (ContrastMode(), False),
}
"""Each with whether the principles' `against` says something."""


class Timing(NamedTuple):
    """One run of one side."""

    seconds: float
    cpu_seconds: float
    cost: Cost
    cached_share: float


def constitution(principles: int, against: bool = True) -> Constitution:
    nouns = ("care", "detail", "warmth", "caution", "wit", "order", "candour", "respect")

    def contrast(noun: str) -> dict[str, str]:
        told = f"You are a person of great {noun}. You answer with {noun} whatever you are asked."
        return {"for": told, "against": told.replace("great", "little").replace("with", "without") if against else ""}

    rows = [
        {"id": f"p{i}", "compare": f"Which response shows more {noun}?", "contrast": contrast(noun)}
        for i, noun in enumerate(nouns[:principles])
    ]
    head = {"schema": "rlaif/constitution/v1", "id": "bench", "version": "1.0.0", "title": "Benchmark"}
    return Constitution.model_validate(head | {"principles": rows})


def pairs(number: int, tokenizer_words: int, seed: int = 0) -> list[Pair]:
    """Pairs of random everyday words whose conversation and responses together have about PAIR_TOKENS tokens."""
    prompts = [value["prompt"] for _, value in read_objects(resolve("prompts/sets", "everyday"))]
    words = sorted({word for prompt in prompts for word in prompt.lower().split() if word.isalpha()})
    draw = random.Random(seed)

    def text(length: int) -> str:
        return " ".join(draw.choice(words) for _ in range(length)).capitalize() + "."

    half = (tokenizer_words - 30) // 2
    return [
        Pair.of(Prompt.of((Message(role="user", content=text(30)),)), text(half), text(half)) for _ in range(number)
    ]


def requests_of(many: Sequence[Pair], rules: Constitution) -> list[ChatRequest]:
    recorder = Recorder()
    SingleJudge(CompareMode(), rules, SECTION, 0, TEMPLATE)(recorder, many)
    return recorder.asked


def raw(url: str, bodies: Sequence[bytes], concurrency: int) -> Cost:
    """The ceiling: the bodies as they are, so many at a time, replies read and parsed as JSON."""
    tokens = 0

    async def work(session: aiohttp.ClientSession, waiting: Iterator[bytes]) -> None:
        nonlocal tokens
        for body in waiting:
            headers = {"Content-Type": "application/json"}
            async with session.post(f"{url}/chat/completions", data=body, headers=headers) as response:
                reply = json.loads(await response.read())
                assert reply["choices"][0]["logprobs"], reply
                tokens += reply["usage"]["prompt_tokens"]

    async def send() -> None:
        connector = aiohttp.TCPConnector(limit=concurrency)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(600)) as session:
            waiting = iter(bodies)
            await asyncio.gather(*(work(session, waiting) for _ in range(concurrency)))

    asyncio.run(send())
    return Cost(len(bodies), tokens, len(bodies))


def prefix_counters(root: str) -> tuple[float, float]:
    """(tokens looked up, tokens found) in the server's prefix cache so far."""
    values = {"queries": 0.0, "hits": 0.0}
    for line in httpx.get(f"{root}/metrics", trust_env=False).text.splitlines():
        for name in values:
            if line.startswith((f"vllm:prefix_cache_{name}_total{{", f"vllm:prefix_cache_{name}{{")):
                values[name] += float(line.rsplit(" ", 1)[1])
    return values["queries"], values["hits"]


def timed(root: str, work: Callable[[], Cost]) -> Timing:
    httpx.post(f"{root}/reset_prefix_cache", trust_env=False).raise_for_status()
    looked_up, found = prefix_counters(root)
    began, cpu = time.perf_counter(), time.process_time()
    cost = work()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    looked_up_after, found_after = prefix_counters(root)
    return Timing(seconds, cpu_seconds, cost, (found_after - found) / max(looked_up_after - looked_up, 1.0))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="smollm2-135m")
    options.add_argument("--pairs", type=int, default=12, help="pairs judged by 8 principles; the same by 1")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--concurrency", type=int, default=128)
    options.add_argument(
        "--words", type=int, default=410, help="words of a pair; about 512 tokens of the default model"
    )
    options.add_argument(
        "--argument", action="append", default=[], help="passed on to vLLM, e.g. --argument=--block-size=32"
    )
    options.add_argument("--only", choices=("raw", "modes"), help="one of the two parts; default: both")
    given = options.parse_args()

    server = VllmChatModel(
        VllmModel(model=given.model, max_model_len=2048, concurrency=given.concurrency, arguments=tuple(given.argument))
    )
    many, one = constitution(PRINCIPLES), constitution(1)
    sample = pairs(given.pairs, given.words)
    with tempfile.TemporaryDirectory() as folder:
        warm = SingleJudge(CompareMode(), one, SECTION, 0, TEMPLATE)(server, sample[:1])  # starts the server
        tokens = warm.cost.prompt_tokens / warm.cost.calls
        print(f"server ready; a question about a pair has {tokens:.0f} prompt tokens")
        if given.only != "modes":
            measure(given, server, sample, {"rlaif": many, "one": one}, Path(folder))
        if given.only != "raw":
            for principles in (1, PRINCIPLES):
                measure_modes(given, server, sample, principles, Path(folder))
    server.close()


def measure(
    given: argparse.Namespace,
    server: VllmChatModel,
    sample: Sequence[Pair],
    rules: dict[str, Constitution],
    folder: Path,
) -> None:
    url, root = server.base_url, server.base_url.removesuffix("/v1")
    client = client_of(server, given)
    label_ids = asyncio.run(label_token_ids(root, server.name, requests_of(sample[:1], rules["one"])[0]))
    bodies = [
        json.dumps(request_body(request, server.name, label_ids, {})).encode()
        for request in requests_of(sample, rules["rlaif"])
    ]

    def judged(kind: str, number: int) -> Cost:
        model = CachedModel(client, folder / f"{kind}{number}.sqlite")
        result = SingleJudge(CompareMode(), rules[kind], SECTION, 0, TEMPLATE)(model, sample)
        assert not result.failures, result.failures[0]
        return result.cost

    timings: dict[str, list[Timing]] = {"rlaif": [], "raw": [], "one": []}
    for number in range(given.rounds):
        sides: list[tuple[str, Callable[[], Cost]]] = [
            ("rlaif", partial(judged, "rlaif", number)),
            ("raw", partial(raw, url, bodies, given.concurrency)),
        ]
        sides = sides[:: 1 if number % 2 else -1]  # whoever goes second finds the machine warm: take turns
        sides.append(("one", partial(judged, "one", number)))
        for name, work in sides:
            timings[name].append(timed(root, work))
        for name, rows in timings.items():
            last, calls = rows[-1], rows[-1].cost.calls
            print(
                f"round {number + 1}  {name:<6} {calls:>5} requests  {last.seconds:7.2f} s  "
                f"{calls / last.seconds:7.1f}/s  own CPU {1e3 * last.cpu_seconds / calls:5.2f} ms  "
                f"prefix cache {last.cached_share:4.0%}"
            )
    report(timings, len(sample))


def client_of(server: VllmChatModel, given: argparse.Namespace) -> HttpChatModel:
    config = ClientModel(
        model=server.name, revision="bench", base_urls=(server.base_url,), concurrency=given.concurrency
    )
    return HttpChatModel(config)


def measure_modes(
    given: argparse.Namespace, server: VllmChatModel, sample: Sequence[Pair], principles: int, folder: Path
) -> None:
    """The same pairs in each of WAYS by so many principles, in turns, each on an empty prefix cache."""
    root, client = server.base_url.removesuffix("/v1"), client_of(server, given)

    def judged(name: str, number: int) -> Cost:
        mode, against = WAYS[name]
        model = CachedModel(client, folder / f"{name}-{principles}-{number}.sqlite")
        result = SingleJudge(mode, constitution(principles, against), SECTION, 0)(model, sample)
        assert not result.failures, result.failures[0]
        return result.cost

    timings: dict[str, list[Timing]] = {name: [] for name in WAYS}
    for number in range(given.rounds):
        for name in [*WAYS][:: 1 if number % 2 else -1]:
            timings[name].append(timed(root, partial(judged, name, number)))
    seconds = {name: statistics.median(row.seconds for row in rows) for name, rows in timings.items()}
    costs = {name: rows[0].cost for name, rows in timings.items()}
    figures = {}
    print(f"principles: {principles}; pairs: {len(sample)}; medians of {given.rounds} rounds")
    for name, cost in costs.items():
        time_ratio = seconds[name] / seconds["compare"]
        token_ratio = cost.prompt_tokens / costs["compare"].prompt_tokens
        figures[name] = {"seconds_over_compare": round(time_ratio, 3), "tokens_over_compare": round(token_ratio, 3)}
        share = statistics.median(row.cached_share for row in timings[name])
        print(
            f"  {name:<21} {cost.calls:>5} requests  {seconds[name]:7.2f} s ({time_ratio:5.2f} x compare)  "
            f"{cost.prompt_tokens:>7} tokens sent ({token_ratio:5.2f} x)  prefix cache {share:4.0%}"
        )
    print(json.dumps({"principles": principles, **figures}))


async def label_token_ids(root: str, model: str, request: ChatRequest) -> LabelIds | None:
    async with aiohttp.ClientSession() as session:

        async def tokenize(body: dict[str, Any]) -> Tokens:
            async with session.post(
                f"{root}/tokenize", json={"model": model, "return_token_strs": True, **body}
            ) as response:
                return tokenized(await response.read())

        return await find_label_ids(tokenize, request, {"chat_template_kwargs": {"enable_thinking": False}})


def report(timings: dict[str, list[Timing]], n_pairs: int) -> None:
    def median(name: str, value: Callable[[Timing], float]) -> float:
        return statistics.median(value(row) for row in timings[name])

    def seconds(row: Timing) -> float:
        return row.seconds

    own = median("rlaif", lambda row: 1e3 * row.cpu_seconds / row.cost.calls)
    figures = {
        "pairs": n_pairs,
        "principles": PRINCIPLES,
        "judgments_per_s": n_pairs / median("rlaif", seconds),
        "requests_per_s": timings["rlaif"][0].cost.calls / median("rlaif", seconds),
        "prompt_tokens_per_s": timings["rlaif"][0].cost.prompt_tokens / median("rlaif", seconds),
        "prefix_cache_share": median("rlaif", lambda row: row.cached_share),
        "efficiency_against_raw": median("raw", seconds) / median("rlaif", seconds),
        "time_of_8_principles_over_1": median("rlaif", seconds) / median("one", seconds),
        "own_cpu_ms_per_request": own,
    }
    for name, value in figures.items():
        print(f"{name:<30} {value:.3f}" if isinstance(value, float) else f"{name:<30} {value}")
    print(json.dumps({name: round(float(value), 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
