"""Works that ask: turns, their order, and what becomes of a work whose replies come late or not at once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rlaif.feedback.judge.drive import Work, drive, sharing, sharing_turns, together
from rlaif.feedback.judge.result import Cost
from rlaif.models.chat import ChatRequest, OnReplies, Reply
from rlaif.records import Message


def request(text: str) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=text),))


def said(request: ChatRequest) -> str:
    return request.messages[-1].content


class Backwards:
    """Answers a call's requests from the last to the first, one at a time."""

    name = revision = "backwards"

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def chat(self, requests: Sequence[ChatRequest], on_replies: OnReplies | None = None) -> list[Reply]:
        self.calls.append([said(request) for request in requests])
        replies = [Reply(text=f"{said(r)}!", prompt_tokens=1, completion_tokens=2) for r in requests]
        for index in reversed(range(len(requests))):
            assert on_replies is not None
            on_replies([(index, replies[index])])
        return replies

    def close(self) -> None: ...


def turns(name: str, *sizes: int) -> Work[list[str]]:
    """So many requests in each turn; the texts of all replies."""
    texts = []
    for turn, size in enumerate(sizes):
        replies = yield [request(f"{name}{turn}{place}") for place in range(size)]
        texts += [reply.text for reply in replies]
    return texts


def test_each_work_gets_its_own_replies_in_order_and_each_turn_is_one_call() -> None:
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


@pytest.mark.parametrize("handed_on", [(), (0,), (2,), (0, 1), (1, 1, 1), (3, 0, 3)])
def test_a_reply_counts_once_whether_it_was_handed_on_or_not(handed_on: tuple[int, ...]) -> None:
    class Hesitant(Backwards):
        def chat(self, requests: Sequence[ChatRequest], on_replies: OnReplies | None = None) -> list[Reply]:
            replies = [Reply(text=f"{said(r)}!") for r in requests]
            assert on_replies is not None
            for index in handed_on:
                on_replies([(index, replies[index])] if index < len(replies) else [])
            return replies

    results, cost = drive(Hesitant(), [turns("a", 3, 1), turns("b", 1, 1)])
    assert results == [["a00!", "a01!", "a02!", "a10!"], ["b00!", "b10!"]]
    assert cost.calls == 6


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
