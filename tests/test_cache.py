"""The reply cache: the same replies with and without it, through kills, errors, duplicates and two processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.errors import DataError
from rlaif.models.cache import CachedModel
from rlaif.models.chat import ChatRequest, OnReplies, Reply
from rlaif.records import Message

BATCH = 4


def ask(text: str, seed: int = 0) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=text),), seed=seed)


class BatchModel:
    """Cuts its list into batches from the front; its replies name the batch, so another cut gives other replies."""

    def __init__(self, die_after: int | None = None, log: Path | None = None, name: str = "batch") -> None:
        self.name, self.revision = name, "1"
        self.calls: list[list[str]] = []
        self.failing: set[str] = set()
        self.closed = 0
        self._die_after, self._log = die_after, log

    def chat(self, requests: Sequence[ChatRequest], on_replies: OnReplies | None = None) -> list[Reply]:
        texts = [request.messages[-1].content for request in requests]
        self.calls.append(texts)
        replies: list[Reply] = []
        for number, start in enumerate(range(0, len(texts), BATCH)):
            if number == self._die_after:
                os.kill(os.getpid(), signal.SIGKILL)
            batch = texts[start : start + BATCH]
            if self._log:
                with self._log.open("a") as log:
                    log.write(json.dumps(batch) + "\n")
            new = [Reply(error="no") if text in self.failing else Reply(text=f"{text} of {batch}") for text in batch]
            replies += new
            if on_replies is not None:
                on_replies(list(enumerate(new, start=start)))
        return replies

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Any]:
    """Opens cached models on one file, and closes them."""
    opened: list[CachedModel] = []

    def open_on(model: BatchModel) -> CachedModel:
        opened.append(CachedModel(model, tmp_path / "cache" / "replies.sqlite"))
        return opened[-1]

    yield open_on
    for model in opened:
        model.close()


def test_the_second_call_asks_nothing_and_says_the_same(store: Any) -> None:
    requests = [ask(f"q{n}") for n in range(6)]
    first, second = BatchModel(), BatchModel()
    replies = store(first).chat(requests)
    again = store(second)
    assert again.chat(requests) == replies
    assert second.calls == []
    assert (again.asked, again.reused) == (0, 6)
    assert (again.name, again.revision) == ("batch", "1")


def test_all_that_is_missing_is_asked_in_one_call_in_order(store: Any) -> None:
    model = BatchModel()
    cached = store(model)
    cached.chat([ask("b"), ask("d")])
    lots: list[Any] = []
    replies = cached.chat([ask("a"), ask("b"), ask("c"), ask("d"), ask("e")], lots.append)
    assert model.calls == [["b", "d"], ["a", "c", "e"]]
    assert [reply.text[0] for reply in replies] == list("abcde")
    assert [[index for index, _ in lot] for lot in lots] == [[1, 3], [0, 2, 4]]
    assert (cached.asked, cached.reused) == (5, 2)


def test_a_duplicate_is_asked_once_and_answered_everywhere(store: Any) -> None:
    model = BatchModel()
    cached = store(model)
    seen: dict[int, Reply] = {}
    replies = cached.chat([ask("a"), ask("b"), ask("a")], seen.update)
    assert model.calls == [["a", "b"]]
    assert replies[0] == replies[2]
    assert [seen[index] for index in range(3)] == replies
    assert (cached.asked, cached.reused) == (2, 1)


def test_an_error_is_never_stored(store: Any) -> None:
    model = BatchModel()
    model.failing = {"b"}
    cached = store(model)
    assert [reply.error for reply in cached.chat([ask("a"), ask("b")])] == [None, "no"]
    model.failing = set()
    assert [reply.error for reply in cached.chat([ask("a"), ask("b")])] == [None, None]
    assert model.calls == [["a", "b"], ["b"]]


def test_another_model_seed_or_text_is_another_question(store: Any) -> None:
    model, other = BatchModel(), BatchModel(name="other")
    cached = store(model)
    cached.chat([ask("a")])
    cached.chat([ask("a", seed=1), ask("A")])
    store(other).chat([ask("a")])
    assert model.calls == [["a"], ["a", "A"]]
    assert other.calls == [["a"]]


def test_close_closes_the_model_and_may_be_repeated(store: Any) -> None:
    model = BatchModel()
    cached = store(model)
    cached.close()
    cached.close()
    assert model.closed == 2


def test_a_file_that_is_no_cache_is_named(tmp_path: Path) -> None:
    path = tmp_path / "replies.sqlite"
    path.write_text("not a database, but long enough to be looked at " * 10)
    with pytest.raises(DataError, match=r"replies\.sqlite: not a usable reply cache"):
        CachedModel(BatchModel(), path)


@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=8), max_size=4))
def test_whatever_is_asked_the_order_and_the_questions_match(calls: list[list[str]]) -> None:
    model = BatchModel()
    cached = CachedModel(model, Path(":memory:"))
    try:
        for texts in calls:
            assert [reply.text[0] for reply in cached.chat([ask(text) for text in texts])] == texts
        asked = [text for call in model.calls for text in call]
        assert sorted(asked) == sorted({text for texts in calls for text in texts})
    finally:
        cached.close()


# ------------------------------------------------------------------------------------ kills and processes

CHILD = """
import json, sys
from pathlib import Path
from rlaif.models.cache import CachedModel
from tests.test_cache import BatchModel, ask

folder, die_after = Path(sys.argv[1]), json.loads(sys.argv[2])
model = CachedModel(BatchModel(die_after, folder / "batches.jsonl"), folder / "replies.sqlite")
replies = model.chat([ask(f"q{n}") for n in range(20)])
print(json.dumps([reply.text for reply in replies]))
model.close()
"""


def start(folder: Path, die_after: int | None) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(folder), json.dumps(die_after)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])


def batches(folder: Path) -> list[list[str]]:
    return [json.loads(line) for line in (folder / "batches.jsonl").read_text().splitlines()]


def test_a_killed_call_asks_only_the_rest_and_the_replies_are_the_same(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    expected, _ = start(whole, None).communicate()
    first = start(killed, die_after=3)
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    assert batches(killed) == batches(whole)[:3]
    replies, _ = start(killed, None).communicate()
    assert replies == expected
    assert batches(killed) == batches(whole), "exactly the missing batches, cut as before"


def test_two_processes_may_share_the_file(tmp_path: Path) -> None:
    both = [start(tmp_path, None), start(tmp_path, None)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert said[0] == said[1]
