"""The HTTP client: what it sends, what it retries, and that a bad reply is an error with its true reason."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import math
import re
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenacity import wait_none
from tenacity.wait import wait_base

from rlaif.config.models import ClientModel
from rlaif.errors import ConfigError, ModelError
from rlaif.models.client import HttpChatModel
from rlaif.models.client.replicas import MOST_BYTES, Replicas, retry_after_s
from rlaif.models.engine import ChatRequest, Reply
from rlaif.models.engine import ask as replies_of
from rlaif.models.reasoning import THINKS_FIRST
from rlaif.models.wire import BadReply, error_message, parse_reply, request_body
from rlaif.records import Message
from rlaif.testing import HttpAnswer, Request, completion, failed, fake_server
from tests.vocabulary import tokenized

MODELS = HttpAnswer(body={"data": [{"id": "judge"}, {"id": "other"}]})


def ask(text: str, **fields: Any) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=text),), **fields)


def client(*urls: str, model: str = "judge", backoff: wait_base | None = None, **fields: Any) -> HttpChatModel:
    settings = {"max_tries": 3, "concurrency": 8} | fields
    return HttpChatModel(ClientModel(model=model, base_urls=urls, **settings), backoff or wait_none())


def warm(*urls: str, **fields: Any) -> HttpChatModel:
    """A client that has had an answer already, so that it no longer sends the first request alone."""
    model = client(*urls, **fields)
    model._answered = {"text", "labels", "answer"}
    return model


def echo(request: Request) -> HttpAnswer:
    return completion(request.text.upper())


def dead_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


def in_turn(*answers: HttpAnswer | None) -> Any:
    """A handler that gives these answers one after the other, then echoes."""
    left = iter(answers)
    return lambda request: next(left, echo(request))


class NoWait(wait_base):
    """A back-off that must not be used."""

    def __call__(self, _state: Any) -> float:
        raise AssertionError("Retry-After was not honoured")


# ----------------------------------------------------------------------------------------- what is sent


def test_a_sampling_request_carries_its_settings_and_the_reply_its_tokens() -> None:
    with fake_server(lambda _: completion("hello", "length")) as server:
        request = ask("hi", max_tokens=9, temperature=0.7, top_p=0.9, seed=2**62)
        replies = replies_of(client(server.url), [request])
    assert replies == [Reply(text="hello", finish_reason="length", prompt_tokens=7, completion_tokens=3)]
    assert server.seen[0].path == "/v1/chat/completions"
    assert server.seen[0].body == {
        "model": "judge",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 9,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 2**62,
    }


def test_order_is_kept_when_replies_arrive_in_another() -> None:
    another_arrived = threading.Event()

    def handle(request: Request) -> HttpAnswer:
        if request.text == "first":
            assert another_arrived.wait(10)
        return echo(request)

    arrived: list[int] = []
    texts = ["first", "mid", "last"]

    with fake_server(handle) as server:
        for number, reply in warm(server.url).stream(map(ask, texts)):
            assert reply.text == texts[number].upper()
            arrived.append(number)
            another_arrived.set()
    assert sorted(arrived) == [0, 1, 2] and arrived[0] != 0


def test_as_many_are_in_flight_as_allowed_and_no_more() -> None:
    now = most = 0

    class Counting(HttpChatModel):
        async def _answer(self, _session: aiohttp.ClientSession, _request: ChatRequest) -> Reply:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)  # everybody else has a turn
            now -= 1
            return Reply()

    config = ClientModel(model="judge", base_urls=("http://127.0.0.1:9/v1",), concurrency=4)
    replies_of(Counting(config), [ask(str(n)) for n in range(12)])
    assert most == 4


def test_more_than_a_hundred_may_be_in_flight() -> None:
    all_there = threading.Barrier(110, timeout=300)

    def handle(request: Request) -> HttpAnswer:
        all_there.wait()
        return echo(request)

    with fake_server(handle) as server:
        replies = replies_of(warm(server.url, concurrency=110, max_tries=1), [ask(str(n)) for n in range(110)])
    assert [reply.text for reply in replies] == [str(n) for n in range(110)]


def test_servers_share_the_load() -> None:
    both_busy = threading.Barrier(2, timeout=300)

    def handle(request: Request) -> HttpAnswer:
        both_busy.wait()
        return echo(request)

    with fake_server(handle) as one, fake_server(handle) as two:
        replies_of(warm(one.url, two.url, concurrency=2), [ask(str(n)) for n in range(6)])
    assert len(one.seen) + len(two.seen) == 6
    assert one.seen and two.seen


def test_the_api_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "abc")
    with fake_server(echo) as server:
        replies_of(client(server.url, api_key_env="JUDGE_KEY"), [ask("hi")])
    assert server.seen[0].headers["Authorization"] == "Bearer abc"
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(ConfigError, match="JUDGE_KEY is not set"):
        client(server.url, api_key_env="JUDGE_KEY")


def test_a_proxy_does_not_come_between_us_and_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", dead_url())
    with fake_server(echo) as server:
        assert replies_of(client(server.url), [ask("hi")])[0].text == "HI"


def test_a_proxy_serves_the_addresses_that_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with fake_server(echo) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", ".inside")
        urls = ("http://judge.example/v1", "http://judge.inside/v1", "https://judge.example/v1", "http://[::1]:8/v1")
        servers = Replicas(ClientModel(model="judge", base_urls=urls))._servers
        assert [server.proxy is not None for server in servers] == [True, False, False, False]
        assert replies_of(client("http://judge.example/v1"), [ask("hi")])[0].text == "HI"
    assert proxy.seen[0].path == "http://judge.example/v1/chat/completions"


def test_it_works_inside_a_running_event_loop() -> None:
    async def notebook() -> list[Reply]:
        return replies_of(client(server.url), [ask("hi")])

    with fake_server(echo) as server:
        assert asyncio.run(notebook())[0].text == "HI"


def test_no_requests_need_no_server() -> None:
    assert replies_of(client(dead_url()), []) == []


def test_requests_are_read_as_they_are_needed_in_the_thread_that_reads_the_replies() -> None:
    read: list[int] = []

    def requests() -> Iterator[ChatRequest]:
        for number in range(100):
            read.append(threading.get_ident())
            yield ask(str(number))

    with fake_server(echo) as server:
        for done, _ in enumerate(warm(server.url, concurrency=4).stream(requests())):
            assert len(read) <= done + 8 + 8, "twice the concurrency, and as many that came together"
    assert done == 99 and set(read) == {threading.get_ident()}


def test_an_error_in_what_is_asked_comes_out_as_it_is() -> None:
    def requests() -> Iterator[ChatRequest]:
        yield ask("hi")
        raise OSError("disk full")

    with fake_server(echo) as server, pytest.raises(OSError, match="disk full"):
        list(client(server.url).stream(requests()))


def test_a_loop_that_cannot_be_made_is_an_error_and_no_endless_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_descriptor_left(main: Coroutine[Any, Any, None]) -> None:
        main.close()
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(asyncio, "run", no_descriptor_left)
    raised: list[BaseException] = []

    def read() -> None:
        try:
            replies_of(client(dead_url()), [ask("hi")])
        except OSError as error:
            raised.append(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(30)
    assert [str(error) for error in raised] == ["[Errno 24] Too many open files"]


def test_a_stream_that_is_closed_early_stops_what_is_under_way() -> None:
    asked, go_on = threading.Event(), threading.Event()

    def handle(request: Request) -> HttpAnswer:
        if request.text != "first":
            asked.set()
            go_on.wait(60)
        return echo(request)

    with fake_server(handle) as server:
        stream = client(server.url, concurrency=2).stream(ask(text) for text in ("first", *"abcdefgh"))
        assert next(stream)[1].text == "FIRST"
        assert asked.wait(60)
        began = time.monotonic()
        stream.close()
        assert time.monotonic() - began < 30
        go_on.set()
    assert len(server.seen) <= 3, "what nobody waits for is not asked"


def said_by(model: HttpChatModel, text: str) -> str:
    return replies_of(model, [ask(text)])[0].text


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "rlaif client"]


def test_a_client_has_one_thread_for_all_its_streams_until_it_is_closed_or_dropped() -> None:
    known = threads()
    with fake_server(echo) as server:
        model = client(server.url)
        streams = [model.stream([ask(text)]) for text in "abc"]
        assert [next(stream)[1].text for stream in streams] == ["A", "B", "C"]
        (own,) = set(threads()) - set(known)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(partial(said_by, model), "abcdefgh"))
        assert found == list("ABCDEFGH") and set(threads()) - set(known) == {own}
        model.close()
        model.close()
        assert not own.is_alive()
        assert replies_of(model, [ask("again")])[0].text == "AGAIN"
        (own,) = set(threads()) - set(known)
        del model, streams
        gc.collect()
        own.join(30)
        assert not own.is_alive()


def test_a_client_that_is_closed_ends_the_streams_that_others_read() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def handle(request: Request) -> HttpAnswer:
        begun.set()
        go_on.wait(60)
        return echo(request)

    with fake_server(handle) as server, ThreadPoolExecutor(1) as pool:
        model = client(server.url)
        reading = pool.submit(replies_of, model, [ask("hi")])
        assert begun.wait(60)
        model.close()
        with pytest.raises(ModelError, match="0 replies to 1 requests"):
            reading.result(60)
        go_on.set()


FORKED = """
import os, sys, warnings
from rlaif.config.models import ClientModel
from rlaif.models.client import HttpChatModel
from rlaif.models.engine import ChatRequest, ask
from rlaif.records import Message

warnings.simplefilter("ignore")
model = HttpChatModel(ClientModel(model="m", base_urls=(sys.argv[1],)))
request = ChatRequest(messages=(Message(role="user", content="hi"),))
assert ask(model, [request])[0].text == "HI"
child = os.fork()
assert ask(model, [request])[0].text == "HI"
if not child:
    model.close()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
stream = model.stream([request] * 3)
next(stream)
"""


def test_a_forked_process_asks_too_and_a_client_that_nobody_closed_lets_the_program_end() -> None:
    with fake_server(echo) as server:
        command = [sys.executable, "-c", FORKED, server.url]
        done = subprocess.run(command, check=False, capture_output=True, timeout=100, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# ---------------------------------------------------------------------------------------------- retries


@pytest.mark.parametrize("trouble", [failed(503, "busy"), failed(429, "slow down"), failed(500, "oops"), None])
def test_passing_trouble_is_retried(trouble: HttpAnswer | None) -> None:
    with fake_server(in_turn(trouble, trouble)) as server:
        assert replies_of(client(server.url), [ask("hi")]) == [Reply(text="HI", prompt_tokens=7, completion_tokens=3)]
    assert len(server.seen) == 3


def test_lasting_trouble_ends_as_an_error_with_its_reason() -> None:
    with fake_server(lambda _: failed(503, "model is loading")) as server:
        replies = replies_of(client(server.url), [ask("a"), ask("b")])
    assert [reply.error for reply in replies] == ["failed after 3 tries: HTTP 503: model is loading"] * 2
    assert len(server.seen) == 6


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refusal_is_not_retried(status: int) -> None:
    with fake_server(lambda _: failed(status, "maximum context\nlength is 2048 tokens")) as server:
        replies = replies_of(client(server.url), [ask("hi")])
    assert replies[0].error == f"HTTP {status}: maximum context length is 2048 tokens"
    assert len(server.seen) == 1


def test_one_bad_request_spoils_no_other() -> None:
    def handle(request: Request) -> HttpAnswer:
        return failed(400, "no") if request.text == "bad" else echo(request)

    with fake_server(handle) as server:
        replies = replies_of(client(server.url), [ask("a"), ask("bad"), ask("c")])
    assert [reply.text for reply in replies] == ["A", "", "C"]
    assert [reply.error is None for reply in replies] == [True, False, True]


def test_retry_after_is_honoured() -> None:
    busy = HttpAnswer(429, {"error": {"message": "busy"}}, {"Retry-After": "0"})
    with fake_server(in_turn(busy, busy)) as server:
        assert replies_of(client(server.url, backoff=NoWait()), [ask("hi")])[0].text == "HI"


def test_retry_after_may_be_seconds_or_a_date_and_is_bounded() -> None:
    assert retry_after_s("1.5") == 1.5
    assert retry_after_s("86400") == retry_after_s("1e400") == retry_after_s("inf") == 60
    soon = retry_after_s(formatdate(time.time() + 20, usegmt=True))
    assert soon is not None and 15 < soon <= 20
    assert retry_after_s(formatdate(time.time() - 20, usegmt=True)) == 0
    assert retry_after_s("-1") == 0
    for nonsense in ("soon", "nan", "", "Wed, 01 Jan 2020 999999999999999999999:00:00 GMT"):
        assert retry_after_s(nonsense) is None
    assert retry_after_s(None) is None


def test_a_slow_reply_times_out() -> None:
    never = threading.Event()
    with fake_server(lambda _: completion("late") if never.wait() else None) as server:
        replies = replies_of(client(server.url, timeout_s=0.05, max_tries=2), [ask("hi")])
        never.set()
    assert replies[0].error == "failed after 2 tries: no reply within 0.05 s"


def test_a_dead_server_is_routed_around() -> None:
    with fake_server(echo) as live:
        replies = replies_of(client(dead_url(), live.url), [ask(str(n)) for n in range(20)])
    assert [reply.text for reply in replies] == [str(n) for n in range(20)]


def test_a_server_that_failed_is_tried_again_later_by_one_request() -> None:
    together = threading.Barrier(4)

    def at_once(request: Request) -> HttpAnswer:
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(0.5)
        return echo(request)

    with fake_server(at_once) as well, fake_server(lambda _: failed(500, "oops")) as sick:
        model = client(well.url, sick.url, concurrency=5)
        model._replicas._servers[1].avoid_until = time.monotonic() - 1
        replies_of(model, [ask(str(n)) for n in range(5)])
    assert len(sick.seen) == 1


def test_no_server_at_all_is_a_model_error() -> None:
    url = dead_url()
    with pytest.raises(ModelError, match=rf"cannot reach {url} \(3 tries\): Connection refused"):
        replies_of(client(url), [ask(str(n)) for n in range(20)])
    with pytest.raises(ModelError, match="cannot reach"):
        replies_of(client(url), [ask("hi", labels=("A", "B"))])


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("localhost:8000", "'localhost:8000' must begin with http"),
        ("http://:8000/v1", "'http://:8000/v1': "),
        ("http://judge:port/v1", "'http://judge:port/v1': "),
    ],
)
def test_a_url_that_cannot_be_one_is_refused(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"base_urls: {reason}"):
        client(url)


# ------------------------------------------------------------------------------------------- wrong model


def test_a_model_that_is_not_served_is_named_beside_those_that_are() -> None:
    def handle(request: Request) -> HttpAnswer:
        return MODELS if request.path == "/v1/models" else failed(404, "does not exist")

    with (
        fake_server(handle) as server,
        pytest.raises(ModelError, match="has no model 'jugde'; it has judge, other"),
    ):
        replies_of(client(server.url, model="jugde"), [ask("hi")])


def test_a_404_for_a_model_that_is_served_concerns_one_request() -> None:
    def handle(request: Request) -> HttpAnswer:
        return MODELS if request.path == "/v1/models" else failed(404, "no such adapter")

    with fake_server(handle) as server:
        assert replies_of(client(server.url), [ask("hi")])[0].error == "HTTP 404: no such adapter"


def test_a_server_that_dies_while_it_is_asked_for_its_models_is_asked_again() -> None:
    models = iter([None, MODELS])

    def handle(request: Request) -> HttpAnswer | None:
        return next(models) if request.path == "/v1/models" else failed(404, "no such adapter")

    with fake_server(handle) as server:
        # A GET on a kept connection is repeated by the HTTP library itself, so it may be asked once or twice.
        assert replies_of(client(server.url), [ask("hi")])[0].error == "HTTP 404: no such adapter"


def test_what_is_added_to_every_request_makes_another_model() -> None:
    def revision(**fields: Any) -> str:
        return client("http://127.0.0.1:9/v1", **fields).revision

    assert revision() == revision(extra_body={"priority": 1}) == "unknown"
    plain, one, two = (revision(revision="v1", extra_body=extra) for extra in ({}, {"priority": 1}, {"priority": 2}))
    assert plain == "v1"
    assert len({plain, one, two}) == 3 and one.startswith("v1-")


def test_something_else_at_the_url_is_a_model_error() -> None:
    with fake_server(lambda _: HttpAnswer(404, b"<html>")) as server, pytest.raises(ModelError, match="base_urls"):
        replies_of(client(server.url), [ask("hi")])


# ----------------------------------------------------------------------------------------------- labels


VOCABULARY = {"A": 49, "B": 50}


def vllm(logprobs: dict[str, float], vocabulary: dict[str, int] = VOCABULARY) -> Any:
    def handle(request: Request) -> HttpAnswer:
        if request.path == "/tokenize":
            return HttpAnswer(body=tokenized(request.body, vocabulary))
        return completion("A", "length", logprobs)

    return handle


def test_labels_are_asked_for_by_their_exact_tokens() -> None:
    with fake_server(vllm({"token_id:50": -2.5, "token_id:49": -0.1})) as server:
        model = client(server.url)
        replies = replies_of(model, [ask("x", labels=("A", "B")), ask("y", labels=("B", "A"))])
        tokenizations = len(server.asked("/tokenize"))
        replies_of(model, [ask("z", labels=("A", "B"))])
    assert [reply.label_logprobs for reply in replies] == [{"A": -0.1, "B": -2.5}] * 2
    assert len(server.asked("/tokenize")) == tokenizations == 4, "the spellings, the prompt, the answers A and B"
    assert all(not request.body.get("add_special_tokens") for request in server.asked("/tokenize"))
    body = server.asked()[0].body
    assert body["max_tokens"] == 1 and body["temperature"] == 0 and body["logprobs"] is True
    assert body["logprob_token_ids"] == [49, 50]


def test_the_tokens_of_all_spellings_are_added_up() -> None:
    """A tokenizer of SentencePiece's kind: after a new line the answer is the bare word, alone it has a blank."""
    vocabulary = {"A": 5, "B": 6, "\u2581A": 7, " A": 7, " B": 8, "a": 9, " a": 10, "b": 11}
    chances = {"token_id:5": 0.5, "token_id:7": 0.2, "token_id:9": 0.1, "token_id:10": 0.05, "token_id:6": 0.04}
    rest = {"token_id:8": 0.01, "token_id:11": 0.02}
    logprobs = {token: math.log(p) for token, p in (chances | rest).items()}
    with fake_server(vllm(logprobs, vocabulary)) as server:
        found = replies_of(client(server.url), [LABELS])[0].label_logprobs
    assert found == pytest.approx({"A": math.log(0.85), "B": math.log(0.07)})
    assert server.asked()[0].body["logprob_token_ids"] == [5, 6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize("vocabulary", [{"A": 49, "B": 50, "ad": 51}, {"A": 49, "B": 50, "ad": 51, " Bad": 52}])
def test_a_label_of_two_tokens_is_a_model_error(vocabulary: dict[str, int]) -> None:
    """Also where it is one after a blank, which this prompt does not end with."""
    with fake_server(vllm({}, vocabulary)) as server, pytest.raises(ModelError, match=r"'Bad' is \d tokens"):
        replies_of(client(server.url), [ask("x", labels=("A", "Bad"))])


NO_TOKENIZE = HttpAnswer(404, b"")


def plain_server(*answers: HttpAnswer | None) -> Any:
    """A handler of a server without /tokenize that gives these answers one after the other, the last for ever."""
    left = list(answers)

    def handle(request: Request) -> HttpAnswer | None:
        if request.path == "/tokenize":
            return NO_TOKENIZE
        return left.pop(0) if len(left) > 1 else left[0]

    return handle


def likeliest(chances: dict[str, float]) -> HttpAnswer:
    return completion("A", "length", {token: math.log(p) for token, p in chances.items()})


@pytest.mark.parametrize("no_tokenize", [NO_TOKENIZE, HttpAnswer(200, {"tokens": []})])
def test_without_tokenize_the_likeliest_tokens_are_searched(no_tokenize: HttpAnswer) -> None:
    def handle(request: Request) -> HttpAnswer:
        return no_tokenize if request.path == "/tokenize" else likeliest({"A": 0.6, " B": 0.2, "B": 0.1, "x": 0.1})

    with fake_server(handle) as server:
        replies = replies_of(client(server.url), [LABELS])
    assert replies[0].label_logprobs == pytest.approx({"A": math.log(0.6), "B": math.log(0.3)})
    assert server.asked()[0].body["top_logprobs"] == 20


def test_ratings_are_read_from_the_few_digits_that_a_plain_server_tells() -> None:
    told = likeliest({"7": 0.5, "8": 0.3, "6": 0.1, " 7": 0.05, "The": 0.04})
    with fake_server(plain_server(told)) as server:
        found = replies_of(client(server.url), [ask("x", labels=tuple("0123456789"))])[0].label_logprobs
    assert found is not None
    assert {digit: round(math.exp(found[digit]), 6) for digit in "5678"} == {
        "5": 0.001429,
        "6": 0.1,
        "7": 0.55,
        "8": 0.3,
    }


def test_a_server_that_tells_no_ids_is_asked_for_the_likeliest() -> None:
    """It has a /tokenize, but takes no notice of `logprob_token_ids`."""

    def handle(request: Request) -> HttpAnswer:
        if request.path == "/tokenize":
            return HttpAnswer(body=tokenized(request.body, VOCABULARY))
        return likeliest({"A": 0.8, "B": 0.1}) if "top_logprobs" in request.body else completion("A", "length", {})

    with fake_server(handle) as server:
        replies = replies_of(client(server.url), [ask(str(n), labels=("A", "B")) for n in range(3)])
    assert [reply.label_logprobs for reply in replies] == [pytest.approx({"A": math.log(0.8), "B": math.log(0.1)})] * 3
    assert len(server.asked()) == 4


# ------------------------------------------------------------------------------- what a server can do

MANY = [ask(str(n), labels=("A", "B")) for n in range(12)]
GOOD = likeliest({"A": 0.8, "B": 0.1})


def refusing(parameter: str, refused: Any, message: str) -> Any:
    """A handler that refuses requests in which `refused(body)` holds, in OpenAI's words."""

    def handle(request: Request) -> HttpAnswer:
        if request.path == "/tokenize":
            return NO_TOKENIZE
        if refused(request.body):
            return HttpAnswer(400, {"error": {"message": message, "param": parameter, "code": "unsupported_parameter"}})
        return GOOD if request.body.get("logprobs") else echo(request)

    return handle


FEW = [
    (5, "top_logprobs must be between 0 and 5", 1),
    (8, "Requested sample logprobs of 20, which is greater than max allowed: 8", 1),
    (5, "too many top_logprobs", 2),
    (3, "top_logprobs: value out of range", 3),
    (0, "Unsupported parameter: 'top_logprobs'", 1),
]


@pytest.mark.parametrize(("most", "message", "refusals"), FEW)
@pytest.mark.parametrize("named", [True, False])
def test_a_server_that_tells_fewer_tokens_is_asked_for_fewer(
    most: int, message: str, refusals: int, named: bool
) -> None:
    parameter = ("logprobs" if "sample logprobs" in message else "top_logprobs") if named else None
    handle = refusing(parameter or "", lambda body: body.get("top_logprobs", 0) > most, message)
    with fake_server(handle) as server:
        replies = replies_of(client(server.url), MANY)
    assert [reply.error for reply in replies] == [None] * len(MANY)
    assert len(server.asked()) == len(MANY) + refusals
    assert server.asked()[-1].body.get("top_logprobs", 0) in {most, 2}


def test_the_token_limit_goes_by_the_name_that_the_server_knows() -> None:
    message = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
    with fake_server(refusing("max_tokens", lambda body: "max_tokens" in body, message)) as server:
        model = client(server.url)
        labelled, written = replies_of(model, MANY), replies_of(model, [ask("hi", max_tokens=9)])
    assert [reply.error for reply in (*labelled, *written)] == [None] * 13
    assert len(server.asked()) == 14
    assert server.asked()[-1].body["max_completion_tokens"] == 9 and "max_tokens" not in server.asked()[-1].body


def test_a_label_is_asked_for_without_a_temperature_where_none_may_be_named() -> None:
    message = "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default is supported."
    with fake_server(refusing("temperature", lambda body: body.get("temperature") == 0, message)) as server:
        model = client(server.url)
        assert [reply.error for reply in replies_of(model, MANY)] == [None] * 12
        with pytest.raises(ModelError, match="'temperature' does not support"):
            replies_of(model, [ask("greedy")])  # to sample instead would be another reply
    assert len(server.asked()) == 14


UNFIT = [
    (failed(401, "Incorrect API key provided"), r"HTTP 401: Incorrect API key provided; api_key_env names", 1),
    (failed(403, "no access"), r"HTTP 403: no access; api_key_env names", 2),
    (failed(402, "no credit"), r"HTTP 402: no credit$", 2),
    (HttpAnswer(301, b""), "HTTP 301", 2),
    (failed(400, "Unknown parameter: 'logprobs'"), "Unknown parameter: 'logprobs'", 1),
    (failed(400, "'max_tokens' is not supported; use 'max_completion_tokens'"), "'max_tokens' is not supported", 2),
    (completion("A", "length"), "tells no log-probabilities of judge", 2),
]


@pytest.mark.parametrize(("answer", "line", "requests"), UNFIT)
def test_what_fails_every_request_is_found_out_before_the_others(answer: HttpAnswer, line: str, requests: int) -> None:
    with fake_server(plain_server(answer)) as server, pytest.raises(ModelError, match=line):
        replies_of(client(server.url), MANY)
    assert len(server.asked()) == requests


@pytest.mark.parametrize("fault", [failed(403, "flagged"), completion("A", "length")])
def test_what_fails_the_first_request_alone_fails_no_other(fault: HttpAnswer) -> None:
    """Also where it is the only one that is left to ask: a resumed run must not stop at what was a failure before."""

    def handle(request: Request) -> HttpAnswer:
        return NO_TOKENIZE if request.path == "/tokenize" else fault if request.text == "0" else GOOD

    with fake_server(handle) as server:
        replies = replies_of(client(server.url), MANY)
        (alone,) = replies_of(client(server.url), MANY[:1])
    assert [reply.error is None for reply in replies] == [False] + [True] * 11
    assert alone.error == replies[0].error


def test_a_first_request_that_is_slow_to_be_answered_holds_up_no_other() -> None:
    with fake_server(plain_server(failed(503, "busy"), GOOD)) as server:
        assert [reply.error for reply in replies_of(client(server.url), MANY)] == [None] * 12
    assert len(server.asked()) == 13


# ------------------------------------------------------------------------------------------------- speed

SERVER = """
import sys
from tests.faulty_server import faulty_server

with faulty_server() as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


def test_a_request_costs_little_of_our_own_time() -> None:
    """3 ms of CPU at 128 in flight, so that one process keeps a large server busy; it takes about a tenth of that."""
    command = [sys.executable, "-c", SERVER]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdin is not None and process.stdout is not None
        model = client(process.stdout.readline().strip(), concurrency=128)
        requests = [ask(f"{n} " + "word " * 512, labels=("A", "B")) for n in range(640)]
        began = time.process_time()
        replies = replies_of(model, requests)
        cost = (time.process_time() - began) / len(requests)
        process.stdin.close()
    assert not any(reply.error for reply in replies)
    assert cost < 0.003


# ------------------------------------------------------------------------------------------- bad replies


def test_a_reply_cut_off_in_transit_is_asked_again() -> None:
    cut = HttpAnswer(200, b'{"choices": [{"message": {"conte')
    with fake_server(in_turn(cut)) as server:
        assert replies_of(client(server.url), [ask("hi")])[0].text == "HI"
    with fake_server(lambda _: cut) as server:
        error = replies_of(client(server.url), [ask("hi")])[0].error
    assert error == 'failed after 3 tries: the reply is not JSON: {"choices": [{"message": {"conte'
    assert len(server.seen) == 3


@pytest.mark.parametrize("finish", ["error", "abort", "cancelled", "Aborted"])
@pytest.mark.parametrize("labels", [(), ("A", "B")])
def test_what_the_server_broke_off_is_no_answer(finish: str, labels: tuple[str, ...]) -> None:
    broken = completion("Half of", finish, {"A": -0.1, "B": -3.0})
    with fake_server(plain_server(broken)) as server:
        (reply,) = replies_of(client(server.url), [ask("x", labels=labels)])
    assert reply == Reply(
        error=f"failed after 3 tries: the server broke the reply off (finish_reason {finish.lower()})"
    )


def test_the_first_choice_is_found_by_its_index_and_not_its_place() -> None:
    one, two = ({"index": n, "message": {"content": f"{n}"}} for n in (1, 0))
    assert parse_reply(choices(one, two), ask("x"), None).text == "0"
    assert parse_reply(choices(one), ask("x"), None).text == "1"
    for several in (choices(one, one), choices(two, two), choices({"message": {}}, {"message": {}})):
        with pytest.raises(BadReply, match=r"has 2 choices, \d of them with index 0"):
            parse_reply(several, ask("x"), None)


@pytest.mark.parametrize("count", [-5, 10**30, -1e9, 1e300, None])
def test_a_count_of_tokens_that_cannot_be_is_none(count: Any) -> None:
    usage = {"prompt_tokens": count, "completion_tokens": 3}
    data = json.dumps({"choices": [{"message": {"content": "Yes."}}], "usage": usage}).encode()
    assert parse_reply(data, ask("x"), None) == Reply(text="Yes.", completion_tokens=3)


def test_labels_told_by_id_have_no_more_than_all_of_the_probability() -> None:
    ids = {"A": (49,), "B": (50,)}

    def told(*tokens: tuple[str, float]) -> bytes:
        top = [{"token": token, "logprob": logprob} for token, logprob in tokens]
        return choices({"message": {"content": "A"}, "logprobs": {"content": [{"top_logprobs": top}]}})

    with pytest.raises(BadReply, match=r"the labels' probabilities sum to 1\.37"):
        parse_reply(told(("token_id:49", 0.0), ("token_id:50", -1.0)), LABELS, ids)
    with pytest.raises(BadReply, match="one token twice"):
        parse_reply(told(("token_id:49", -0.1), ("token_id:50", -3.0), ("token_id:49", -4.0)), LABELS, ids)
    same = told(("token_id:49", -0.1), ("token_id:50", -3.0), ("token_id:49", -0.1))
    assert parse_reply(same, LABELS, ids).label_logprobs == {"A": -0.1, "B": -3.0}


def test_the_token_itself_is_read_beside_the_likeliest() -> None:
    top = [{"token": "B", "logprob": -3.0}, {"token": "C", "logprob": -4.0}]
    position = {"token": "A", "logprob": -0.1, "top_logprobs": top}
    data = choices({"message": {"content": "A"}, "logprobs": {"content": [position]}})
    assert parse_reply(data, LABELS, None).label_logprobs == {"A": -0.1, "B": -3.0}


def choices(*found: dict[str, Any]) -> bytes:
    return json.dumps({"choices": found}).encode()


def body_of(answer: HttpAnswer) -> bytes:
    return json.dumps(answer.body).encode()


KEY = 'sk-/s+E"c-0123456789'
SLASHED = KEY.replace('"', '\\"').replace("/", "\\/")
ESCAPED = "".join(f"\\u{ord(sign):04X}" for sign in KEY)
ECHOES = {
    "an error that says 200": (200, json.dumps({"error": f"bad key {KEY}"}).encode()),
    "a token": (200, body_of(completion("A", "length", {KEY: -0.1, "x": -3.0}))),
    "no JSON": (200, b"not for " + KEY.encode()),
    "cut by the message": (200, b"y" * 190 + KEY.encode()),
    "a reason": (200, body_of(completion(None, KEY))),
    "slashed": (400, f'{{"error": "{SLASHED}"}}'.encode()),
    "escaped": (400, f'{{"error": "{ESCAPED}"}}'.encode()),
    "escaped twice": (400, json.dumps({"error": f'{{"k": "{ESCAPED}"}}'}).encode()),
    "UTF-16": (400, f'{{"error": "{SLASHED}"}}'.encode("utf-16")),
    "a page": (403, b"<b>sk-&#x2F;s+E&#34;c-0123456789</b>"),
    "a redirect": (400, b"/login?k=sk-%2Fs+E%22c-0123456789"),
}


@pytest.mark.parametrize("echo_", ECHOES)
@pytest.mark.parametrize("labels", [(), ("A", "B")])
def test_no_message_repeats_the_key_that_a_server_does(
    echo_: str, labels: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    answer = HttpAnswer(*ECHOES[echo_])
    with fake_server(plain_server(answer)) as server:
        try:
            (reply,) = replies_of(client(server.url, api_key_env="JUDGE_KEY"), [ask("x", labels=labels)])
            said = reply.error or ""
        except ModelError as error:
            said = str(error)
    if echo_ == "a token" and not labels:
        assert said == ""
        return
    assert said and "sk-" not in said and "0123" not in said and "0030" not in said and "s+E" not in said


@pytest.mark.parametrize("header", ["X-A\x01", "Content-Length"])
def test_nor_does_one_about_headers_that_are_none(header: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    answer = HttpAnswer(200, b"{}", {header: KEY, "Content-Length": KEY})
    with fake_server(lambda _: answer) as server:
        (reply,) = replies_of(client(server.url, api_key_env="JUDGE_KEY"), [ask("x")])
    assert reply.error and reply.error.startswith("failed after 3 tries: ClientResponseError: Invalid ")
    assert "sk-" not in reply.error and "0123" not in reply.error


def test_the_key_is_in_no_list_of_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)

    def handle(request: Request) -> HttpAnswer:
        models = HttpAnswer(body={"data": [{"id": f"x-{KEY}"}]})
        return models if request.path == "/v1/models" else failed(404, "does not exist")

    with fake_server(handle) as server, pytest.raises(ModelError, match=r"it has x-\*\*\*$"):
        replies_of(client(server.url, api_key_env="JUDGE_KEY"), [ask("hi")])


LABELS = ask("x", labels=("A", "B"))
BAD = [
    (ask("x"), choices(), "no choices"),
    (ask("x"), b"[]", "should be an object"),
    (ask("x"), choices({"text": "old style"}), "choices.0.message: Field required"),
    (ask("x"), body_of(completion(None)), r"no text \(finish_reason 'stop'\)"),
    (ask("x"), body_of(completion("", "content_filter")), "content filter"),
    (LABELS, body_of(completion("A")), "no log-probabilities"),
    (LABELS, choices({"message": {}, "logprobs": {"content": []}}), "no log-probabilities"),
    (LABELS, body_of(completion("A", logprobs={"x": -1.0, "y": -2.0})), "none of the labels A B is among the 2 likel"),
    (LABELS, body_of(completion("A", logprobs={"x": -0.8, "A": -1.5})), "'B' is not among .* may be as probable"),
    (LABELS, body_of(completion("A", logprobs={"A": -1.0, "B": float("nan")})), "'B' has log-probability nan"),
    (LABELS, body_of(completion("A", logprobs={"A": 3.0, "B": -1.0})), "'A' has log-probability 3.0"),
]


@pytest.mark.parametrize(("request_", "data", "reason"), BAD)
def test_a_useless_reply_says_why_and_is_not_asked_again(request_: ChatRequest, data: bytes, reason: str) -> None:
    with pytest.raises(BadReply, match=reason) as caught:
        parse_reply(data, request_, None)
    assert caught.value.whole

    def handle(request: Request) -> HttpAnswer:
        return HttpAnswer(404, b"") if request.path == "/tokenize" else HttpAnswer(200, data)

    with fake_server(handle) as server:
        error = replies_of(warm(server.url), [request_])[0].error
    assert error == str(caught.value)
    assert len(server.asked()) == 1


@given(st.binary() | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(lambda v: json.dumps(v).encode()))
def test_whatever_comes_is_a_bad_reply_and_never_a_crash(data: bytes) -> None:
    for request in (ask("x"), LABELS):
        with pytest.raises(BadReply):
            parse_reply(data, request, None)
    assert len(error_message(data)) <= 200
    assert "\n" not in error_message(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"error": {"message": "too long"}}', "too long"),
        (b'{"error": "too long"}', "too long"),
        (b'{"object": "error", "message": "too long"}', "too long"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b"<html>\n\nbad  gateway", "<html> bad gateway"),
        (b"", "nothing"),
    ],
)
def test_the_servers_own_words(data: bytes, message: str) -> None:
    assert error_message(data) == message


def test_extra_fields_reach_the_server_and_labels_forbid_thinking() -> None:
    request = ChatRequest(messages=(Message(role="user", content="hi"),), labels=("A", "B"))
    body = request_body(request, "m", {"A": (1,), "B": (2,)}, {"priority": 3})
    assert body["priority"] == 3
    assert body["chat_template_kwargs"] == {"enable_thinking": False, "thinking": False}
    assert "chat_template_kwargs" not in request_body(request, "m", None, {})


def message(finish: str = "stop", **fields: Any) -> HttpAnswer:
    """A completion whose message holds these fields."""
    choice = {"message": {"role": "assistant", **fields}, "finish_reason": finish, "token_ids": [1, 2]}
    return HttpAnswer(body={"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 30}})


def gzipped(megabytes: int) -> HttpAnswer:
    """So many of blanks, which weigh nothing packed."""
    packer = zlib.compressobj(9, wbits=31)
    data = b"".join(packer.compress(b" " * (1 << 20)) for _ in range(megabytes)) + packer.flush()
    return HttpAnswer(200, data, {"Content-Encoding": "gzip"})


CHUNKED = {"Transfer-Encoding": "chunked", "Content-Length": None}
BURSTS = {
    "half of a surrogate pair": (
        HttpAnswer(400, b'{"error": {"message": "bad \\ud800 half"}}'),
        "HTTP 400: bad \ufffd half",
    ),
    "half of a pair in a reply": (
        HttpAnswer(200, choices({"message": {"content": "\ud800"}})),
        "the reply is not JSON",
    ),
    "nested error": (HttpAnswer(400, b"[" * 200_000), r"HTTP 400: \[\[\["),
    "nested reply": (HttpAnswer(200, b"[" * 200_000), r"the reply is not JSON: \[\[\["),
    "nested, but complete": (HttpAnswer(400, b"[" * 900 + b"]" * 900), r"HTTP 400: \[\[\["),
    "huge": (HttpAnswer(200, b" " * (MOST_BYTES + 1)), r"the reply is larger than 4 MiB \(HTTP 200\)"),
    "huge error": (HttpAnswer(400, b" " * (MOST_BYTES + 1)), r"the reply is larger than 4 MiB \(HTTP 400\)"),
    "packed": (gzipped(64), r"the reply is larger than 4 MiB \(HTTP 200\)"),
    "not packed": (HttpAnswer(200, b"no gzip", {"Content-Encoding": "gzip"}), "the reply cannot be unpacked"),
    "cut in a chunk": (HttpAnswer(200, b"ff\r\n{", CHUNKED), "hung up in the middle"),
    "no chunk": (
        HttpAnswer(200, b"zz\r\n{", CHUNKED),
        "chunk size|no reply within|in the middle",
    ),
    "not UTF-8": (HttpAnswer(200, b'{"choices": "\xff\xfe"}'), "the reply is not JSON"),
    "UTF-16": (HttpAnswer(400, '{"error": "caf\u00e9"}'.encode("utf-16")), "HTTP 400: caf\u00e9"),
    "a page": (HttpAnswer(502, b"<html>\n<b>Bad gateway</b>"), "HTTP 502: <html> <b>Bad gateway</b>"),
    "a page, and well": (HttpAnswer(200, b"<html>"), "the reply is not JSON: <html>"),
    "NaN": (HttpAnswer(200, b'{"choices": NaN}'), "choices: Input should be a valid array"),
    "NaN tokens": (HttpAnswer(200, body_of(message(content="x")).replace(b"30", b"NaN")), "completion_tokens"),
    "a long number": (HttpAnswer(400, b'{"error": ' + b"9" * 9999 + b"}"), "HTTP 400: {"),
    "terminal": (HttpAnswer(400, b'{"error": "\\u001b[2Jboo"}'), r"HTTP 400: .\[2Jboo"),
    "null": (HttpAnswer(400, b'{"error": null}'), "HTTP 400: null"),
    "number": (HttpAnswer(400, b'{"error": 7}'), "HTTP 400: 7"),
    "list": (HttpAnswer(400, b'{"error": [1, {"a": 2}]}'), r"HTTP 400: \[1, {\"a\": 2}\]"),
    "string": (HttpAnswer(400, b'"no"'), "HTTP 400: no"),
    "deep": (HttpAnswer(400, b'{"error": {"message": {"detail": ["no"]}}}'), r'HTTP 400: {"detail": \["no"\]}'),
    "nothing": (HttpAnswer(400, b""), "HTTP 400: nothing"),
    "long reason": (HttpAnswer(200, choices({"message": {}, "finish_reason": "x" * 9999})), "no text"),
}


@pytest.mark.parametrize("case", BURSTS)
@pytest.mark.parametrize("request_", [ask("x"), LABELS], ids=["text", "labels"])
def test_whatever_a_server_sends_is_a_failure_with_a_short_reason(case: str, request_: ChatRequest) -> None:
    answer, reason = BURSTS[case]

    def handle(request: Request) -> HttpAnswer:
        return HttpAnswer(404, b"") if request.path == "/tokenize" else answer

    with fake_server(handle) as server:
        try:
            # aiohttp may wait for more after what is no chunk.
            error = replies_of(client(server.url, max_tries=1, timeout_s=3 if case == "no chunk" else 60), [request_])[
                0
            ].error
        except ModelError as unfit:  # for labels: nothing this server says has log-probabilities
            error = str(unfit) if request_.labels else None
    assert error is not None and (request_.labels or re.search(reason, error)), error
    assert len(error) < 400 and error.isprintable() and error.encode()


def test_no_more_of_a_reply_is_in_memory_than_it_may_have() -> None:
    answer = gzipped(128)
    with fake_server(lambda _: answer) as server:
        tracemalloc.start()
        replies = replies_of(client(server.url), [ask(str(n)) for n in range(2)])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert {reply.error for reply in replies} == {"the reply is larger than 4 MiB (HTTP 200)"}
    assert len(server.asked()) == 2, "asked again it would be as large"
    assert peak < 10 * MOST_BYTES


def test_a_server_that_repeats_our_key_is_not_quoted_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    answer = failed(401, "wrong key: sk-secret")
    with fake_server(lambda _: answer) as server, pytest.raises(ModelError, match=r"HTTP 401: wrong key: \*\*\*;"):
        replies_of(client(server.url, api_key_env="JUDGE_KEY"), [ask("hi")])


@pytest.mark.parametrize("key", ["line\nbreak", "caf\u00e9"])
def test_a_key_that_no_header_holds_is_an_error(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", key)
    with pytest.raises(ConfigError, match="what JUDGE_KEY holds cannot be sent") as caught:
        client("http://127.0.0.1:9/v1", api_key_env="JUDGE_KEY")
    assert key not in str(caught.value)


def test_a_proxys_password_is_in_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_server(lambda _: HttpAnswer(407, b"no")) as server:
        proxy = server.url.removesuffix("/v1").replace("//", "//me:hunter2@")
        monkeypatch.setenv("https_proxy", proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        error = replies_of(client("https://judge.invalid/v1", max_tries=1), [ask("hi")])[0].error
    assert error == "failed after 1 try: ClientHttpProxyError: Unsupported method ('CONNECT')"


# -------------------------------------------------------------------------------------------- reasoning


THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
SAID = {"prompt_tokens": 7, "completion_tokens": 30}


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (message(content="<think>Hm.</think>\n\nYes."), Reply(text="Yes.", **SAID)),
        (message(content="Hm.\n</think>\n\nYes."), Reply(text="Yes.", **SAID)),
        (message(content="Yes.", reasoning_content="Hm."), Reply(text="Yes.", **SAID)),
        (message(content="Yes.", reasoning="Hm."), Reply(text="Yes.", **SAID)),
        (message(content=[THINKING, {"type": "text", "text": "Yes."}]), Reply(text="Yes.", **SAID)),
        (message(content="Yes.", reasoning_content=None), Reply(text="Yes.", token_ids=(1, 2), **SAID)),
        (message(content=["Ye", {"type": "text", "text": "s."}]), Reply(text="Yes.", token_ids=(1, 2), **SAID)),
        (message("length", content="<think>Hm."), Reply(finish_reason="reasoning", **SAID)),
        (message("length", content=None, reasoning_content="Hm."), Reply(finish_reason="reasoning", **SAID)),
        (message(content="", reasoning="Hm."), Reply(finish_reason="reasoning", **SAID)),
        (message(content=[THINKING]), Reply(finish_reason="reasoning", **SAID)),
    ],
)
def test_reasoning_is_paid_for_and_no_part_of_the_text(answer: HttpAnswer, reply: Reply) -> None:
    with fake_server(lambda _: answer) as server:
        assert replies_of(client(server.url), [ask("hi")]) == [reply]


@pytest.mark.parametrize("first", ["<think>", "[THINK]", "<|channel|>"])
def test_a_label_that_reasoning_comes_before_is_none(first: str) -> None:
    answer = completion(first, "length", {first: -0.01, "A": -5.0, "B": -5.5})
    with fake_server(lambda r: HttpAnswer(404, b"") if r.path == "/tokenize" else answer) as server:
        assert replies_of(client(server.url), [LABELS]) == [Reply(error=THINKS_FIRST)]
    assert "judge.thinking=false" in THINKS_FIRST


def test_thinking_is_said_to_the_chat_template_where_the_recipe_says_it() -> None:
    def sent(request: ChatRequest, thinking: bool | None, extra: dict[str, Any] | None = None) -> Any:
        return request_body(request, "m", None, extra or {}, thinking=thinking).get("chat_template_kwargs")

    off, on = ({"enable_thinking": value, "thinking": value} for value in (False, True))
    assert [sent(ask("hi"), thinking) for thinking in (None, False, True)] == [None, off, on]
    assert [sent(LABELS, thinking) for thinking in (None, False, True)] == [None, off, off]
    assert sent(ask("hi"), False, {"chat_template_kwargs": {"x": 1}}) == {"x": 1}
    revisions = {client("http://127.0.0.1:9/v1", revision="v1", thinking=t).revision for t in (None, False, True)}
    assert len(revisions) == 3 and "v1" in revisions
