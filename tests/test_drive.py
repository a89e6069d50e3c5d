"""Works that ask: turns, their order, and what becomes of a work whose replies come late or not at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from rlaif.errors import ModelError
from rlaif.feedback.judge.drive import Work, drive, sharing, sharing_turns, together
from rlaif.feedback.judge.result import Cost
from rlaif.models.engine import ChatRequest, Reply
from rlaif.models.engine import ask as replies_of
from rlaif.models.scripted import ScriptedChatModel
from rlaif.records import Message


def request(text: str) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=text),))


def said(request: ChatRequest) -> str:
    return request.messages[-1].content


class Backwards:
    """Answers a stream's requests from the last to the first."""

    name = revision = "backwards"

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def stream(self, requests: Iterable[ChatRequest]) -> Iterator[tuple[int, Reply]]:
        asked = [said(request) for request in requests]
        self.calls.append(asked)
        for index in reversed(range(len(asked))):
            yield index, Reply(text=f"{asked[index]}!", prompt_tokens=1, completion_tokens=2)

    def close(self) -> None: ...


def turns(name: str, *sizes: int) -> Work[list[str]]:
    """So many requests in each turn; the texts of all replies."""
    texts = []
    for turn, size in enumerate(sizes):
        replies = yield [request(f"{name}{turn}{place}") for place in range(size)]
        texts += [reply.text for reply in replies]
    return texts


def test_each_work_gets_its_own_replies_in_order_and_each_turn_is_one_stream() -> None:
    model, ended = Backwards(), list[int]()
    works = [turns("a", 2, 1), turns("b", 1, 1), turns("c"), turns("d", 0, 2)]
    results, cost = drive(model, works, ended.append)
    assert results == [["a00!", "a01!", "a10!"], ["b00!", "b10!"], [], ["d10!", "d11!"]]
    assert model.calls == [["a00", "a01", "b00"], ["a10", "b10", "d10", "d11"]]
    assert cost == Cost(7, 7, 14)
    assert ended == [2, 3, 1, 0]


def test_a_work_of_works_asks_as_they_do_side_by_side() -> None:
    model = Backwards()
    inner = [together([turns("a", 1, 1), turns("b", 2)]), together([turns("c", 1, 0, 1)]), together([turns("d")])]
    results, _ = drive(model, [together(inner)])
    assert results == [[[["a00!", "a10!"], ["b00!", "b01!"]], [["c00!", "c20!"]], [[]]]]
    assert model.calls == [["a00", "b00", "b01", "c00"], ["a10"], ["c20"]]


def test_works_begin_as_the_model_reads_and_go_on_as_their_replies_come() -> None:
    begun: list[str] = []
    model = ScriptedChatModel(lambda request: said(request) + "!")

    def work(name: str) -> Work[list[str]]:
        begun.append(name)
        return (yield from turns(name, 2))

    ended: list[tuple[int, int]] = []
    drive(model, (work(name) for name in "abc"), lambda number: ended.append((number, len(begun))))
    assert ended == [(0, 1), (1, 2), (2, 3)]


@pytest.mark.parametrize(
    ("answered", "problem"),
    [
        ((), "0 replies to 3 requests"),
        ((0,), "1 replies to 3 requests"),
        ((1, 0), "2 replies to 3 requests"),
        ((1, 1), "a reply to request 1, which waits for none"),
        ((0, 3), "a reply to request 3, which waits for none"),
    ],
)
def test_a_model_that_does_not_answer_each_request_once_is_named(answered: tuple[int, ...], problem: str) -> None:
    class Odd(Backwards):
        def stream(self, requests: Iterable[ChatRequest]) -> Iterator[tuple[int, Reply]]:
            for _ in range(2):  # it may not even read them all
                next(iter(requests))
            return ((index, Reply()) for index in answered)

    with pytest.raises(ModelError, match=f"^model backwards: {problem}$"):
        drive(Odd(), [turns("a", 2), turns("b", 1)])
    with pytest.raises(ModelError, match=f"^model backwards: {problem}$"):
        replies_of(Odd(), [ChatRequest(messages=())] * 3)


def test_nothing_to_ask() -> None:
    model = Backwards()
    assert drive(model, list[Work[list[str]]]()) == ([], Cost())
    assert drive(model, [turns("a"), turns("b", 0)]) == ([[], []], Cost())
    assert model.calls == []


def test_requests_are_told_what_they_share() -> None:
    shared = sharing([request("the cat"), request("the cow"), request("the cup")])
    assert [one.shared_prefix for one in shared] == [5, 5, 5]
    assert [one.shared_prefix for one in sharing([request("alone")])] == [0]
    work = sharing_turns(turns("ab", 2, 1))
    assert [one.shared_prefix for one in next(work)] == [3, 3]
    assert [one.shared_prefix for one in work.send([Reply(), Reply()])] == [0]
