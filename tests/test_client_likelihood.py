"""How likely given answers are, as a server tells it: the tokens and numbers of the local engine, or a true reason."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import json
import math
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tenacity import wait_none

from rlaif.config.models import ClientModel
from rlaif.errors import ModelError
from rlaif.models import server as own_server
from rlaif.models.cache import CachedModel
from rlaif.models.client import HttpChatModel, background
from rlaif.models.client.background import Lookups
from rlaif.models.client.reading import AnswerReader
from rlaif.models.client.replicas import MOST_BYTES
from rlaif.models.engine import ChatRequest, Likelihood, Reply, answers
from rlaif.models.engine import ask as replies_of
from rlaif.models.local.tokens import encode_prompt, encode_response, turn_of
from rlaif.models.wire import BadReply
from rlaif.models.wire_tokens import WORDS, AnswerRow, parse_likelihood, parse_shared
from rlaif.records import Message
from rlaif.testing import FakeServer, HttpAnswer, Request, completion, failed, fake_server, tiny_tokenizer
from tests.fake_vllm import FakeReader
from tests.tiny import FAMILIES, save_family, tokenizer_of

SCORED = ("/v1/completions", "/inference/v1/generate")


def hashed(row: Sequence[int]) -> list[float]:
    """Of each token but the first, a number that depends on it and all before it."""
    sha, found = hashlib.sha256(b"%d" % row[0]), []
    for token in row[1:]:
        sha.update(b" %d" % token)
        found.append(-1 - 7 * sha.digest()[0] / 255)
    return found


def asked(*turns: str, answer: str = "Yes.", system: str = "") -> ChatRequest:
    """A conversation of these turns by the user and the assistant, and an answer to it."""
    told = (Message(role="system", content=system),) if system else ()
    roles = ("user", "assistant")
    said = tuple(Message(role=roles[n % 2], content=text) for n, text in enumerate(turns))
    return ChatRequest(messages=(*told, *said), answer=answer)


def expected(
    tokenizer: Any, request: ChatRequest, logprobs: Callable[[Sequence[int]], Sequence[float]] = hashed
) -> Likelihood:
    """By the definition: the prompt, and the answer as a policy would write it."""
    assert request.answer is not None
    prompt, answer = encode_prompt(tokenizer, request.messages), encode_response(tokenizer, request.answer)
    own = logprobs([*prompt, *answer])[len(prompt) - 1 :]
    count = len(answer) - len(turn_of(tokenizer).written)
    return Likelihood(logprob=math.fsum(own[:count]), end_logprob=math.fsum(own[count:]), tokens=count)


def same(found: Likelihood | None, wanted: Likelihood) -> bool:
    assert found is not None
    assert found.logprob == pytest.approx(wanted.logprob, abs=1e-4)
    assert found.end_logprob == pytest.approx(wanted.end_logprob, abs=1e-4)
    return found.tokens == wanted.tokens


def client(*urls: str, **fields: Any) -> HttpChatModel:
    settings = {"max_tries": 3, "concurrency": 8} | fields
    return HttpChatModel(ClientModel(model="judge", base_urls=urls, **settings), wait_none())


class Served(NamedTuple):
    fake: FakeReader
    server: FakeServer

    def scored(self) -> list[Request]:
        return [request for request in self.server.seen if request.path in SCORED]


@contextmanager
def served(tokenizer: Any = None, *, shares: bool = True, **settings: Any) -> Iterator[Served]:
    fake = FakeReader(tokenizer or tiny_tokenizer(), settings.pop("logprobs", hashed), shares=shares, **settings)
    with fake_server(fake.handle) as server:
        yield Served(fake, server)


# ---------------------------------------------------------------------------------- the local engine's numbers

ANSWERS = (
    "Yes, it is.",
    "",
    " a blank before and after ",
    "two\nlines\n\n",
    "\u00fcber caf\u00e9 \U0001f642",
    "Let me see.</think>No.",
    "<|im_end|> <|eot|> </s>",
    "turn",
)
CONVERSATIONS = (("Is it?",), ("Hi.", "Hello!", "Is it?"))
NO_END = {"a line", "nothing"}
NO_SYSTEM = {"gemma", "mistral"}


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in NO_END])
def test_it_is_what_the_local_engine_reads_whatever_the_template(family: str, shares: bool) -> None:
    tokenizer = tokenizer_of(family)
    systems = ("",) if family in NO_SYSTEM else ("", "Be brief.")
    requests = [
        asked(*turns, answer=answer, system=system)
        for turns in CONVERSATIONS
        for system in systems
        for answer in ANSWERS
    ]
    with served(tokenizer, shares=shares) as (fake, server):
        replies = replies_of(client(server.url), requests)
    for request, reply in zip(requests, replies, strict=True):
        assert reply.error is None and reply.likelihood is not None
        assert same(reply.likelihood, expected(tokenizer, request)), request
        assert answers(request, reply)
        assert reply.prompt_tokens == len(encode_prompt(tokenizer, request.messages)) + len(
            encode_response(tokenizer, request.answer or "")
        )
        assert reply.completion_tokens == 0 and reply.text == ""
    assert (fake.from_cache > 0) == shares


@pytest.mark.parametrize("family", ["llama3", "thinking may be off"])
def test_the_numbers_are_a_models(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    tokenizer = tokenizer_of(family)
    model = AutoModelForCausalLM.from_pretrained(save_family(family, tmp_path)).eval()

    @torch.no_grad()
    def logprobs(row: Sequence[int]) -> list[float]:
        ids = torch.tensor([row])
        found = torch.log_softmax(model(ids).logits[0, :-1], -1).gather(1, ids[0, 1:, None])[:, 0]
        return [float(value) for value in found]

    requests = [asked("Is it?", answer=answer) for answer in ANSWERS]
    with served(tokenizer, logprobs=logprobs) as (_, server):
        replies = replies_of(client(server.url), requests)
    assert all(same(r.likelihood, expected(tokenizer, q, logprobs)) for q, r in zip(requests, replies, strict=True))


def test_of_an_empty_answer_only_the_end_has_a_probability() -> None:
    with served() as (_, server):
        (reply,) = replies_of(client(server.url), [asked("Is it?", answer="")])
    assert reply.likelihood is not None
    assert reply.likelihood.logprob == 0 and reply.likelihood.tokens == 0 and reply.likelihood.end_logprob < -1


@pytest.mark.parametrize("thinking", [None, False, True])
def test_a_model_that_may_think_is_read_as_one_that_does_not(thinking: bool | None) -> None:
    tokenizer = tokenizer_of("thinking may be off")
    request = asked("Is it?")
    extra = {"chat_template_kwargs": {"enable_thinking": True, "tone": "dry"}} if thinking else {}
    with served(tokenizer) as (_, server):
        (reply,) = replies_of(client(server.url, thinking=thinking, extra_body=extra), [request])
    assert same(reply.likelihood, expected(tokenizer, request))
    words = [one.body["chat_template_kwargs"] for one in server.seen if "messages" in one.body]
    assert all(not told["enable_thinking"] and (told.get("tone") == "dry") == bool(extra) for told in words)


@pytest.mark.parametrize("family", sorted(NO_END))
def test_a_template_that_ends_no_turn_is_one_line(family: str) -> None:
    with served(tokenizer_of(family)) as (_, server), pytest.raises(ModelError) as caught:
        replies_of(client(server.url), [asked(str(n)) for n in range(9)])
    assert str(caught.value) == (
        "the chat template of judge has no token that ends the assistant's turn, so no answer's likelihood can be read "
        "from a server: use the local backend"
    )
    assert not [one for one in server.seen if one.path in SCORED]


# --------------------------------------------------------------------------------------- what is asked, and how often

SIBLINGS = [
    asked("What is it like, all in all?", answer=answer, system=system)
    for system in ("Be plain and short.", "Be learned and long.")
    for answer in ("It is big.", "Vast.", "Rather blue.")
]


def test_each_prompt_and_answer_is_made_tokens_once_and_each_pair_of_them_read_once() -> None:
    with served() as (fake, server):
        model = client(server.url)
        replies_of(model, SIBLINGS)
        of_the_turn = 1 + len(WORDS)
        assert len(server.asked("/tokenize")) == of_the_turn + 2 + 3
        assert len(server.asked("/generate")) == 6 and not server.asked("/completions")
        replies_of(model, SIBLINGS)
        assert len(server.asked("/tokenize")) == of_the_turn + 2 * (2 + 3)
    assert fake.from_cache > 0


def test_what_is_sent_asks_for_as_little_as_tells_it() -> None:
    extra = {"return_token_ids": True, "priority": 3, "chat_template_kwargs": {"tone": "dry"}}
    row = [*encode_prompt(tiny_tokenizer(), SIBLINGS[0].messages), *encode_response(tiny_tokenizer(), "It is big.")]
    for shares, body in (
        (False, {"prompt": row, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}),
        (
            True,
            {
                "token_ids": row,
                "sampling_params": {
                    "max_tokens": 1,
                    "temperature": 0.0,
                    "prompt_logprobs": 0,
                    "skip_reading_prefix_cache": False,
                    "detokenize": False,
                },
            },
        ),
    ):
        with served(shares=shares) as both:
            replies_of(client(both.server.url, extra_body=extra), SIBLINGS[:1])
        assert both.scored()[-1].body == {"model": "judge", "priority": 3, **body}


@pytest.mark.parametrize("second_runner", [False, True])
def test_what_lies_in_memory_for_cached_tokens_is_never_read(second_runner: bool) -> None:
    """Some prompts end with a block, so that the first token of the answer cannot be told from the cache."""
    requests = [
        asked("x" * n, answer=answer) for n in range(2 * FakeReader.BLOCK) for answer in ("no", "nothing", "none", "no")
    ]
    with served() as both:
        both.fake.second_runner = second_runner
        replies = replies_of(client(both.server.url), requests)
    tokenizer = tiny_tokenizer()
    assert all(same(r.likelihood, expected(tokenizer, q)) for q, r in zip(requests, replies, strict=True))
    alone = len(both.server.asked("/completions"))
    assert 2 <= alone < len(requests) / 2 and len(both.server.asked("/generate")) == len(requests)


def test_a_server_whose_cache_held_the_first_answer_is_still_asked_for_the_others() -> None:
    with served() as both:
        replies_of(client(both.server.url), SIBLINGS[:1])
        model = client(both.server.url)
        before = len(both.server.asked("/generate"))
        assert all(reply.error is None for reply in replies_of(model, SIBLINGS))
    assert len(both.server.asked("/generate")) == before + 6


def no_scale_out(request: Request) -> HttpAnswer | None:
    return HttpAnswer(404, {"detail": "Not Found"}) if request.path.endswith("/generate") else None


def untold(request: Request) -> HttpAnswer | None:
    return failed(500, "oops") if request.path.endswith("/generate") else None


def nonsense(request: Request) -> HttpAnswer | None:
    return HttpAnswer(200, b"{}") if request.path.endswith("/generate") else None


@pytest.mark.parametrize("fault", [no_scale_out, untold, nonsense])
def test_where_no_prefix_is_shared_each_row_is_read_from_its_beginning(fault: Any) -> None:
    with served() as both:
        both.fake.faults = fault
        replies = replies_of(client(both.server.url, concurrency=1), SIBLINGS)
    tokenizer = tiny_tokenizer()
    assert all(same(r.likelihood, expected(tokenizer, q)) for q, r in zip(SIBLINGS, replies, strict=True))
    assert len(both.server.asked("/generate")) == 1, "once is enough to know"
    assert len(both.server.asked("/completions")) == 6


def test_a_server_that_does_not_say_how_much_it_had_cached_is_not_believed() -> None:
    with served() as both:
        both.fake.tells = False
        replies_of(client(both.server.url), SIBLINGS)
        replies = replies_of(client(both.server.url), SIBLINGS)
    tokenizer = tiny_tokenizer()
    assert all(same(r.likelihood, expected(tokenizer, q)) for q, r in zip(SIBLINGS, replies, strict=True))
    assert len(both.server.asked("/generate")) == 2 and both.fake.from_cache > 0


@pytest.mark.parametrize("status", [400, 500])
def test_memory_that_no_json_holds_costs_one_more_request_and_no_answer(status: int) -> None:
    """What vLLM 0.32 says where the memory of cached tokens happens to hold no number."""
    calls = 0

    def fault(request: Request) -> HttpAnswer | None:
        nonlocal calls
        calls += request.path.endswith("/generate")
        bad = request.path.endswith("/generate") and calls % 3 == 0
        return failed(status, "Out of range float values are not JSON compliant: nan") if bad else None

    with served() as both:
        both.fake.faults = fault
        replies = replies_of(client(both.server.url), SIBLINGS)
    tokenizer = tiny_tokenizer()
    assert all(same(r.likelihood, expected(tokenizer, q)) for q, r in zip(SIBLINGS, replies, strict=True))
    assert len(both.server.asked("/generate")) == 6 and len(both.server.asked("/completions")) == 2


# --------------------------------------------------------------------------------------- what fails, and how much

TELLS_NONE = "tells no log-probabilities of given text"
MANY = [asked(str(n)) for n in range(12)]


def openai(request: Request) -> HttpAnswer:
    """A server without anything of vLLM's."""
    if request.path == "/v1/models":
        return HttpAnswer(body={"data": [{"id": "judge"}]})
    return completion("hello") if request.path.endswith("/chat/completions") else failed(404, "no such path")


def llama_cpp(request: Request) -> HttpAnswer:
    return HttpAnswer(body={"tokens": []}) if request.path == "/tokenize" else openai(request)


def tokenizes(then: HttpAnswer) -> Callable[[Request], HttpAnswer | None]:
    """A server with vLLM's /tokenize, and this for a text that it is given."""
    fake = FakeReader(tiny_tokenizer(), hashed, shares=False)
    fake.faults = lambda request: then if request.path == "/v1/completions" else None
    return fake.handle


NONE_TOLD = {
    "OpenAI": (openai, "HTTP 404: no such path"),
    "llama.cpp": (llama_cpp, "its /tokenize tells no tokens"),
    "SGLang": (
        tokenizes(HttpAnswer(body={"choices": [{"text": "x"}]})),
        "the reply has no log-probabilities of the prompt",
    ),
    "strict": (
        tokenizes(failed(400, "Unrecognized request argument: prompt_logprobs")),
        "HTTP 400: Unrecognized request argument: prompt_logprobs",
    ),
    "a page": (lambda _: HttpAnswer(422, b"<html>no"), "HTTP 422: <html>no"),
}


@pytest.mark.parametrize("case", NONE_TOLD)
def test_a_server_that_tells_none_is_one_line_before_the_others_are_asked(case: str) -> None:
    handle, reason = NONE_TOLD[case]
    with fake_server(handle) as server, pytest.raises(ModelError) as caught:
        replies_of(client(server.url), MANY)
    assert str(caught.value) == (
        f"{server.url} {TELLS_NONE} ({reason}), and contrast reads them: use vLLM, the local backend, or "
        "label.mode.kind=compare"
    )
    assert not server.asked("/chat/completions")
    assert len(server.asked("/completions")) <= 2, "one request, and one nobody could object to"
    assert len(server.asked("/generate")) <= 1


def test_once_it_told_one_what_it_does_not_tell_is_a_failure_and_no_end() -> None:
    with served(shares=False) as both:
        model = client(both.server.url)
        replies_of(model, MANY[:1])
        both.fake.faults = tokenizes(HttpAnswer(body={"choices": [{"text": "x"}]}))
        replies = replies_of(model, MANY[1:])
    assert {reply.error for reply in replies} == {"the reply has no log-probabilities of the prompt"}


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (failed(401, "Incorrect API key provided"), r"HTTP 401: Incorrect API key provided; api_key_env names"),
        (failed(403, "no access"), r"HTTP 403: no access; api_key_env names"),
        (failed(402, "no credit"), r"HTTP 402: no credit$"),
    ],
)
@pytest.mark.parametrize("path", ["/tokenize", "/v1/completions"])
def test_who_may_not_ask_is_told_so(answer: HttpAnswer, line: str, path: str) -> None:
    with served(shares=False) as both, pytest.raises(ModelError, match=line):
        both.fake.faults = lambda request: answer if request.path == path else None
        replies_of(client(both.server.url), MANY)


def test_another_model_is_named_beside_those_that_are_served() -> None:
    def handle(request: Request) -> HttpAnswer:
        return openai(request) if request.path == "/v1/models" else failed(404, "The model `jugde` does not exist.")

    with fake_server(handle) as server, pytest.raises(ModelError, match="has no model 'jugde'; it has judge"):
        replies_of(HttpChatModel(ClientModel(model="jugde", base_urls=(server.url,)), wait_none()), MANY)


def test_no_server_at_all_is_a_model_error() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
    with pytest.raises(ModelError, match="cannot reach"):
        replies_of(client(url), MANY)
    with served() as both:
        assert all(reply.error is None for reply in replies_of(client(url, both.server.url), MANY))


def test_one_that_is_too_long_is_said_with_its_length_and_not_sent() -> None:
    tokenizer = tiny_tokenizer()
    long, short = asked("Is it?", answer="x" * 500), asked("Is it?")
    count = len(encode_prompt(tokenizer, long.messages)) + 500 + 1
    for requests in ([long, short], [short, long]):
        with served(context=100) as both:
            found = dict(zip(requests, replies_of(client(both.server.url), requests), strict=True))
        error = f"prompt of {count} tokens does not fit a context of 100"
        assert found[long] == Reply(error=error, prompt_tokens=count, refused="length")
        assert same(found[short].likelihood, expected(tokenizer, short))
        assert len(both.scored()) == 1


def test_the_longest_that_fits_is_read() -> None:
    tokenizer = tiny_tokenizer()
    request = asked("Is it?", answer="x" * 50)
    count = len(encode_prompt(tokenizer, request.messages)) + 50 + 1
    for context, fits in ((count, False), (count + 1, True)):
        with served(context=context) as both:
            (reply,) = replies_of(client(both.server.url), [request])
        assert (reply.error is None) is fits, "vLLM must write one token"


def test_a_conversation_that_the_template_refuses_fails_alone() -> None:
    refused, fine = asked("Is it?", system="Be brief."), asked("Is it?")
    for requests in ([refused, fine], [fine, refused]):
        with served(tokenizer_of("gemma")) as both:
            found = dict(zip(requests, replies_of(client(both.server.url), requests), strict=True))
        assert found[refused].error == "HTTP 400: System role not supported"
        assert found[fine].error is None


def test_a_refusal_of_one_text_concerns_no_other() -> None:
    def fault(request: Request) -> HttpAnswer | None:
        bad = request.path == "/v1/completions" and set(flagged) <= set(request.body["prompt"])
        return failed(400, "flagged") if bad else None

    requests = [asked("Is it?", answer=answer) for answer in ("ok", "caf\u00e9", "fine")]
    flagged = encode_response(tiny_tokenizer(), "caf\u00e9")
    with served(shares=False) as both:
        both.fake.faults = fault
        replies = replies_of(client(both.server.url), requests)
        (first, _) = replies_of(client(both.server.url), [requests[1], requests[0]])
    assert [reply.error for reply in replies] == [None, "HTTP 400: flagged", None]
    assert first.error == "HTTP 400: flagged"


PASSING: list[HttpAnswer | None] = [failed(503, "busy"), failed(429, "slow down"), failed(500, "oops"), None]


@pytest.mark.parametrize(
    ("path", "trouble"),
    [(path, trouble) for path in ("/tokenize", *SCORED) for trouble in (*PASSING, HttpAnswer(200, b'{"choi'))],
)
def test_passing_trouble_is_asked_again(path: str, trouble: HttpAnswer | None) -> None:
    """So is a reply that was cut off."""
    shares, left = path != "/v1/completions", 2

    def fault(request: Request) -> HttpAnswer | None:
        nonlocal left
        if request.path != path or not left:
            return None
        left -= 1
        return HttpAnswer(status=0) if trouble is None else trouble

    with served(shares=shares) as both:
        both.fake.faults = fault
        replies = replies_of(client(both.server.url, concurrency=1), SIBLINGS[:2])
    tokenizer = tiny_tokenizer()
    assert all(same(r.likelihood, expected(tokenizer, q)) for q, r in zip(SIBLINGS, replies, strict=False))


def test_lasting_trouble_ends_as_an_error_with_its_reason() -> None:
    with served(shares=False) as both:
        both.fake.faults = lambda request: failed(500, "oops") if request.path == "/v1/completions" else None
        replies = replies_of(client(both.server.url), MANY[:3])
    assert {reply.error for reply in replies} == {"failed after 3 tries: HTTP 500: oops"}
    assert len(both.server.asked("/completions")) == 9


def test_a_replica_that_dies_is_routed_around() -> None:
    dead = False

    def fault(request: Request) -> HttpAnswer | None:
        return HttpAnswer(status=0) if dead else None

    with served() as one, served() as other:
        one.fake.faults = fault
        model = client(one.server.url, other.server.url)
        assert all(reply.error is None for reply in replies_of(model, MANY))
        dead = True
        replies = replies_of(model, MANY)
    assert all(same(r.likelihood, expected(tiny_tokenizer(), q)) for q, r in zip(MANY, replies, strict=True))


# --------------------------------------------------------------------------------------------------- junk

ROW = AnswerRow([5, 6, 7, 8, 9], answer=2, end=4)


def told(*rows: Any, **fields: Any) -> bytes:
    return json.dumps({"choices": [{"prompt_logprobs": [None, *rows], **fields}]}).encode()


def at(token: int, logprob: float = -1.0) -> dict[str, Any]:
    return {str(token): {"logprob": logprob}}


GOOD = (at(6), at(7, -2.0), at(8, -0.5), at(9, -0.25))
BAD = {
    "NaN": (told(at(6), at(7, math.nan), at(8), at(9)), "the reply has a log-probability of nan"),
    "minus infinity": (told(at(6), at(7), at(8), at(9, -math.inf)), "the reply has a log-probability of -inf"),
    "impossible": (told(at(6), at(7, -9999.0), at(8), at(9)), "the reply has a log-probability of -9999.0"),
    "more than certain": (told(at(6), at(7), at(8, 0.5), at(9)), "the reply has a log-probability of 0.5"),
    "another token": (told(at(6), at(3), at(8), at(9)), "the reply has no log-probability of token 7"),
    "a hole": (told(at(6), at(7), None, at(9)), "the reply has no log-probability of token 8"),
    "too few": (told(at(7), at(8), at(9)), "the reply has log-probabilities of 4 tokens, not of 5"),
    "too many": (told(*GOOD, at(1)), "the reply has log-probabilities of 6 tokens, not of 5"),
    "no choice": (b'{"choices": []}', "the reply has no choices"),
    "words": (told(at(6), {"7": {"logprob": "high"}}, at(8), at(9)), "choices.0.prompt_logprobs.2"),
    "a list": (b"[]", "should be an object"),
    "none": (b'{"choices": [{"text": "x"}]}', "no log-probabilities of the prompt"),
    "no JSON": (b"<html>", "the reply is not JSON: <html>"),
}


def test_a_likelihood_is_the_sum_over_the_answers_own_tokens() -> None:
    assert parse_likelihood(told(*GOOD), ROW) == Likelihood(logprob=-2.5, end_logprob=-0.25, tokens=2)
    nothing = parse_likelihood(told(*GOOD), AnswerRow(ROW.tokens, answer=4, end=4))
    assert nothing == Likelihood(logprob=0.0, end_logprob=-0.25, tokens=0)
    rounded = parse_likelihood(told(at(6), at(7, 0.004), at(8), at(9)), ROW)
    assert rounded.logprob == -1.0, "a hair above certain is certain"


def test_what_is_said_of_the_prompt_is_nothing_to_the_answer() -> None:
    assert parse_likelihood(told(at(1, math.nan), *GOOD[1:]), ROW).logprob == -2.5


@pytest.mark.parametrize("case", BAD)
def test_junk_is_a_failure_with_its_reason(case: str) -> None:
    data, reason = BAD[case]
    with pytest.raises(BadReply) as caught:
        parse_likelihood(data, ROW)
    assert reason in str(caught.value)


@pytest.mark.parametrize("case", [case for case in BAD if case not in {"none", "no JSON"}])
def test_junk_becomes_an_errored_reply_that_no_cache_keeps(case: str, tmp_path: Path) -> None:
    """The same faults, in the reply to a row of the fake's."""

    def fault(request: Request) -> HttpAnswer | None:
        if request.path != "/v1/completions":
            return None
        row = request.body["prompt"]
        rows = [at(token) for token in row[1:]]
        rows[-4:] = [at(row[-4]), at(row[-3]), at(row[-2]), at(row[-1])]
        spoilt: dict[str, Callable[[], Any]] = {
            "NaN": lambda: rows.__setitem__(-3, at(row[-3], math.nan)),
            "minus infinity": lambda: rows.__setitem__(-1, at(row[-1], -math.inf)),
            "impossible": lambda: rows.__setitem__(-3, at(row[-3], -9999.0)),
            "more than certain": lambda: rows.__setitem__(-2, at(row[-2], 0.5)),
            "another token": lambda: rows.__setitem__(-3, at(999)),
            "a hole": lambda: rows.__setitem__(-2, None),  # type: ignore[call-overload]
            "too few": lambda: rows.pop(0),
            "too many": lambda: rows.append(at(1)),
            "words": lambda: rows.__setitem__(-3, {str(row[-3]): {"logprob": "high"}}),
        }
        if case not in spoilt:
            return HttpAnswer(200, BAD[case][0])
        spoilt[case]()
        return HttpAnswer(200, told(*rows))

    with served(shares=False) as both:
        both.fake.faults = fault
        model = CachedModel(client(both.server.url), tmp_path / "replies.sqlite")
        (reply,) = replies_of(model, [asked("Is it?")])
        replies_of(model, [asked("Is it?")])
        model.close()
    assert reply.error is not None and reply.likelihood is None
    assert len(both.server.asked("/completions")) == 2, "asked once by each call: asked again it would be as bad"


def generated(cached: Any, rows: Sequence[Any]) -> bytes:
    usage = {"prompt_tokens_details": None if cached is None else {"cached_tokens": cached}}
    return json.dumps({"prompt_logprobs": [None, *rows], "usage": usage}).encode()


def test_of_a_shared_prefix_only_what_was_computed_is_read() -> None:
    likely = Likelihood(logprob=-2.5, end_logprob=-0.25, tokens=2)
    assert parse_shared(generated(0, GOOD), ROW) == likely
    assert parse_shared(generated(1, [at(1, 3e9), *GOOD[1:]]), ROW) == likely
    assert parse_shared(generated(1, GOOD[1:]), ROW) == likely
    assert parse_shared(generated(None, GOOD), ROW) is None
    assert parse_shared(b"{}", ROW) is None
    for cached in (2, 3, 5, -1):
        with pytest.raises(BadReply, match=f"^{cached} tokens came from the cache, 2 are before the answer"):
            parse_shared(generated(cached, GOOD), ROW)
    for rows in (GOOD[2:], [*GOOD, at(1)], [at(6), at(3), *GOOD[2:]], [at(6), at(7, math.nan), *GOOD[2:]]):
        with pytest.raises(BadReply):
            parse_shared(generated(1, rows), ROW)


@given(st.binary() | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(lambda v: json.dumps(v).encode()))
@example(b"{}")
def test_whatever_comes_is_a_bad_reply_and_never_a_crash(data: bytes) -> None:
    with pytest.raises(BadReply):
        parse_likelihood(data, ROW)
    with contextlib.suppress(BadReply):
        assert parse_shared(data, ROW) is None, "an object that does not say how much came from the cache"


def test_a_long_rows_reply_may_be_large_and_no_larger() -> None:
    """Megabytes of a few thousand tokens, which no other reply may have."""
    request = asked("x" * 20_000)
    for megabytes, error in (
        (MOST_BYTES + (3 << 20), None),
        (MOST_BYTES + (9 << 20), "the reply is larger than 8 MiB"),
    ):

        def pad(request: Request, size: int = megabytes) -> HttpAnswer | None:
            if request.path != "/v1/completions":
                return None
            row = request.body["prompt"]
            data = told(*(at(token) for token in row[1:]))
            return HttpAnswer(200, data + b" " * (size - len(data)) * (len(row) > 20_000))

        with served(shares=False, context=10**6) as both:
            both.fake.faults = pad
            (reply,) = replies_of(client(both.server.url), [request])
        assert reply.error is None if error is None else (reply.error or "").startswith(error)


KEY = 'sk-/s+E"c-0123456789'


@pytest.mark.parametrize(
    "answer",
    [
        failed(400, f"bad key {KEY}"),
        failed(401, f"bad key {KEY}"),
        HttpAnswer(200, b"not for " + KEY.encode()),
        HttpAnswer(200, json.dumps({"choices": KEY}).encode()),
        HttpAnswer(200, json.dumps({"choices": [{"prompt_logprobs": [None, {KEY: {"logprob": -1}}]}]}).encode()),
    ],
)
@pytest.mark.parametrize("path", ["/tokenize", "/v1/completions", "/inference/v1/generate"])
def test_no_message_repeats_the_key(answer: HttpAnswer, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with served(shares=path.startswith("/inference")) as both:
        both.fake.faults = lambda request: answer if request.path == path else None
        try:
            (reply,) = replies_of(client(both.server.url, api_key_env="JUDGE_KEY"), MANY[:1])
            said = reply.error or ""
        except ModelError as error:
            said = str(error)
    assert "sk-" not in said and "0123" not in said and len(said) < 600
    assert bool(said) != path.startswith("/inference"), "what the cache cannot do is no failure"


# ------------------------------------------------------------------------------------------- around the client


def test_the_cache_keeps_likelihoods_and_a_second_run_asks_for_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "replies.sqlite"
    with served() as both:
        first = CachedModel(client(both.server.url, revision="1"), path)
        known = replies_of(first, SIBLINGS[:4])
        first.close()
        again = CachedModel(client(both.server.url, revision="1"), path)
        replies = replies_of(again, SIBLINGS)
        again.close()
    assert replies[:4] == known and (again.reused, again.asked) == (4, 2)
    assert all(same(r.likelihood, expected(tiny_tokenizer(), q)) for q, r in zip(SIBLINGS, replies, strict=True))
    assert len(both.scored()) == 6


def test_answers_texts_and_labels_may_stand_in_one_call() -> None:
    turn = (Message(role="user", content="Is it?"),)
    mixed = [ChatRequest(messages=turn, max_tokens=3), asked("Is it?"), ChatRequest(messages=turn, max_tokens=4)]
    with served() as both:
        both.fake.faults = lambda request: completion("hello") if request.path.endswith("/chat/completions") else None
        replies = replies_of(client(both.server.url), mixed)
    assert [reply.text for reply in replies] == ["hello", "", "hello"]
    assert same(replies[1].likelihood, expected(tiny_tokenizer(), mixed[1]))


def test_of_very_many_prompts_only_the_last_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "REMEMBERED", 3)
    kept: list[int] = []
    of = Lookups.of

    async def counting(lookups: Lookups, *given: Any) -> Any:
        found = await of(lookups, *given)
        kept.append(len(lookups._tasks))
        return found

    monkeypatch.setattr(Lookups, "of", counting)
    requests = [asked(str(n), answer=answer) for n in range(8) for answer in ("a", "b")]
    with served() as both:
        replies = replies_of(client(both.server.url, concurrency=2), requests)
    assert all(same(r.likelihood, expected(tiny_tokenizer(), q)) for q, r in zip(requests, replies, strict=True))
    assert max(kept) == 3


def test_two_streams_of_one_client_side_by_side_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each prompt is being looked up by both streams, in event loops of their own, at the same time."""
    requests = [asked(f"number {n}", answer="yes") for n in range(4)]
    both_ask = {request.messages: threading.Barrier(2) for request in requests}
    look_up = AnswerReader._prompt

    async def with_the_other(reader: AnswerReader, ask: Any, messages: Any) -> Any:
        if messages in both_ask:
            await asyncio.to_thread(both_ask[messages].wait, 30)
        return await look_up(reader, ask, messages)

    monkeypatch.setattr(AnswerReader, "_prompt", with_the_other)
    with served() as both, ThreadPoolExecutor(2) as threads:
        model = client(both.server.url, concurrency=2)
        replies = list(threads.map(lambda _: replies_of(model, requests), range(2)))
    for found in replies:
        assert all(same(r.likelihood, expected(tiny_tokenizer(), q)) for q, r in zip(requests, found, strict=True))


def test_a_server_of_our_own_is_started_with_what_sharing_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where the installed vLLM has it: an argument that it does not know would keep it from starting."""

    class Spec(NamedTuple):
        submodule_search_locations: list[str]

    file = tmp_path / "entrypoints" / "launchers" / "cli_args.py"
    file.parent.mkdir(parents=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: Spec([str(tmp_path)]))
    file.write_text("enable_prompt_tokens_details: bool = False")
    assert own_server._for_likelihoods() == ()
    file.write_text("enable_prompt_tokens_details: bool = False\nenable_scale_out: bool = False")
    assert own_server._for_likelihoods() == ("--enable-scale-out", "--enable-prompt-tokens-details")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert own_server._for_likelihoods() == ()
