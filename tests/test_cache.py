"""The reply cache: the same replies with and without it, through kills, errors, duplicates and two processes."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaif.errors import ConfigError, DataError
from rlaif.feedback.judge.asking import NoVerdict, label_logprobs
from rlaif.models.cache import CachedModel, cache_path, cache_summary, prune
from rlaif.models.cache.store import ReplyStore
from rlaif.models.engine import ChatRequest, InLots, Lot, Reply
from rlaif.models.engine import ask as replies_of
from rlaif.models.scripted import ScriptedChatModel
from rlaif.records import Message

BATCH = 4


def ask(text: str, seed: int = 0) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=text),), seed=seed)


class BatchModel(InLots):
    """Cuts its list into batches from the front; its replies name the batch, so another cut gives other replies."""

    def __init__(
        self, die_after: int | None = None, log: Path | None = None, name: str = "batch", revision: str = "1"
    ) -> None:
        self.name, self.revision = name, revision
        self.calls: list[list[str]] = []
        self.failing: set[str] = set()
        self.closed = 0
        self._die_after, self._log = die_after, log

    def lots(self, requests: Iterable[ChatRequest]) -> Iterator[Lot]:
        texts = [request.messages[-1].content for request in requests]
        self.calls += [texts] if texts else []
        for number, start in enumerate(range(0, len(texts), BATCH)):
            if number == self._die_after:
                os.kill(os.getpid(), signal.SIGKILL)
            batch = texts[start : start + BATCH]
            if self._log:
                with self._log.open("a") as log:
                    log.write(json.dumps(batch) + "\n")
            new = [Reply(error="no") if text in self.failing else Reply(text=f"{text} of {batch}") for text in batch]
            yield list(enumerate(new, start=start))

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Any]:
    """Opens cached models on one file, and closes them."""
    opened: list[CachedModel] = []

    def open_on(model: BatchModel, scope: str | None = None) -> CachedModel:
        opened.append(CachedModel(model, tmp_path / "cache" / "replies.sqlite", scope))
        return opened[-1]

    yield open_on
    for model in opened:
        model.close()


def test_the_second_call_asks_nothing_and_says_the_same(store: Any) -> None:
    requests = [ask(f"q{n}") for n in range(6)]
    first, second = BatchModel(), BatchModel()
    replies = replies_of(store(first), requests)
    again = store(second)
    assert replies_of(again, requests) == replies
    assert second.calls == []
    assert (again.asked, again.reused) == (0, 6)
    assert (again.name, again.revision) == ("batch", "1")


def test_all_that_is_missing_is_asked_in_one_call_in_order(store: Any) -> None:
    model = BatchModel()
    cached = store(model)
    replies_of(cached, [ask("b"), ask("d")])
    lots = list(cached.lots(ask(text) for text in "abcde"))
    assert model.calls == [["b", "d"], ["a", "c", "e"]]
    assert [reply.text[0] for lot in lots for _, reply in lot] == list("bdace")
    assert [[index for index, _ in lot] for lot in lots] == [[1, 3], [0, 2, 4]]
    assert (cached.asked, cached.reused) == (5, 2)


def test_a_duplicate_is_asked_once_and_answered_everywhere(store: Any) -> None:
    model = BatchModel()
    cached = store(model)
    replies = replies_of(cached, [ask("a"), ask("b"), ask("a")])
    assert model.calls == [["a", "b"]]
    assert replies[0] == replies[2]
    assert (cached.asked, cached.reused) == (2, 1)


def test_an_error_is_never_stored(store: Any) -> None:
    model = BatchModel()
    model.failing = {"b"}
    cached = store(model)
    assert [reply.error for reply in replies_of(cached, [ask("a"), ask("b")])] == [None, "no"]
    model.failing = set()
    assert [reply.error for reply in replies_of(cached, [ask("a"), ask("b")])] == [None, None]
    assert model.calls == [["a", "b"], ["b"]]


def test_another_model_seed_or_text_is_another_question(store: Any) -> None:
    model, other = BatchModel(), BatchModel(name="other")
    cached = store(model)
    replies_of(cached, [ask("a")])
    replies_of(cached, [ask("a", seed=1), ask("A")])
    replies_of(store(other), [ask("a")])
    assert model.calls == [["a"], ["a", "A"]]
    assert other.calls == [["a"]]


def test_close_closes_the_model_and_may_be_repeated(store: Any) -> None:
    model = BatchModel()
    cached = store(model)
    cached.close()
    cached.close()
    assert model.closed == 2


def test_a_model_of_unknown_revision_is_remembered_within_its_scope_only(store: Any) -> None:
    def asked(scope: str | None, revision: str) -> bool:
        model = BatchModel(revision=revision)
        replies_of(store(model, scope), [ask("a")])
        return bool(model.calls)

    assert [asked(scope, "unknown") for scope in ("run 1", "run 1", "run 2", None, None)] == [True, False, *[True] * 3]
    assert [asked(scope, "2") for scope in ("run 1", "run 2", None)] == [True, False, False]


def test_what_is_handed_on_is_on_disk(store: Any, tmp_path: Path) -> None:
    def on_disk() -> int:
        return sum(row.replies for row in cache_summary(tmp_path / "cache" / "replies.sqlite"))

    lots = store(BatchModel()).lots(ask(f"q{n}") for n in range(6))
    assert [(on_disk(), len(lot)) for lot in lots] == [(4, 4), (6, 2)]


@pytest.mark.parametrize("window", [None, 3])
def test_what_is_asked_as_it_goes_along_is_answered_as_at_once(
    store: Any, monkeypatch: pytest.MonkeyPatch, window: int | None
) -> None:
    """A model that reads one request at a time: what is known, asked twice or waits in the store comes out the same."""
    monkeypatch.setattr("rlaif.models.cache.model.CHUNK", 2)
    monkeypatch.setattr("rlaif.models.cache.model.READY", 4)
    model = ScriptedChatModel(lambda request: request.messages[-1].content, "one by one")
    model.revision = "1"
    model.window = window  # type: ignore[attr-defined]
    cached = store(model)
    replies_of(cached, [ask(text) for text in "bbcdefghijk"])
    assert (cached.asked, cached.reused) == (10, 1)
    texts = "aabbbcdefghhijklmnaz"
    assert [reply.text for reply in replies_of(cached, [ask(text) for text in texts])] == list(texts)
    assert cached.asked == 10 + len("almnz")


def test_a_window_has_the_same_requests_whatever_of_them_is_known(store: Any) -> None:
    class Windows(BatchModel):
        window = 6

    whole, rest = Windows(), Windows()
    cached = store(whole)
    stream = cached.lots(ask(f"q{n}") for n in range(16))
    next(stream)
    stream.close()
    replies_of(store(rest), [ask(f"q{n}") for n in range(16)])
    assert rest.calls == [["q4", "q5"], [f"q{n}" for n in range(6, 12)], [f"q{n}" for n in range(12, 16)]]


def test_the_reply_that_was_stored_first_stands(store: Any) -> None:
    """Also for whoever asked at the same time and heard another: one file never tells two stories."""
    slow, fast = BatchModel(), BatchModel()

    def meanwhile(requests: Iterable[ChatRequest]) -> Iterator[Lot]:
        for lot in BatchModel.lots(slow, requests):
            replies_of(store(fast), [ask("b")])
            yield lot

    slow.lots = meanwhile  # type: ignore[method-assign]
    replies = replies_of(store(slow), [ask("a"), ask("b")])
    assert [reply.text for reply in replies] == ["a of ['a', 'b']", "b of ['b']"]
    assert replies == replies_of(store(BatchModel()), [ask("a"), ask("b")])


def test_any_number_may_make_the_file_at_once(tmp_path: Path) -> None:
    ready = threading.Barrier(8)

    def open_and_ask(number: int) -> str:
        ready.wait()
        cached = CachedModel(BatchModel(), tmp_path / "replies.sqlite")
        try:
            return replies_of(cached, [ask(f"q{number}")])[0].text
        finally:
            cached.close()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(open_and_ask, range(8))) == [f"q{n} of ['q{n}']" for n in range(8)]
    assert cache_summary(tmp_path / "replies.sqlite")[0].replies == 8


# --------------------------------------------------------------------------------------- the shared file


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RLAIF_REPLIES", "RLAIF_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_path() == tmp_path / ".cache" / "rlaif" / "replies.sqlite"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_path() == Path("/xdg/rlaif/replies.sqlite")
    monkeypatch.setenv("RLAIF_CACHE", "~/mine")
    assert cache_path() == tmp_path / "mine" / "replies.sqlite"
    monkeypatch.setenv("RLAIF_REPLIES", "~/local/r.sqlite")
    assert cache_path() == tmp_path / "local" / "r.sqlite"


@pytest.fixture
def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two models' replies: 40 of `old` at second 1000, 40 of `new` at second 2000."""
    path = tmp_path / "replies.sqlite"
    for name, now in (("old", 1000.0), ("new", 2000.0)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        cached = CachedModel(BatchModel(name=name), path)
        replies_of(cached, [ask(f"{n} " + "long " * 500) for n in range(40)])
        cached.close()
    return path


def test_the_summary_has_a_row_a_model(filled: Path) -> None:
    rows = cache_summary(filled)
    assert [(r.model, r.revision, r.replies, r.oldest, r.newest) for r in rows] == [
        ("new", "1", 40, 2000, 2000),
        ("old", "1", 40, 1000, 1000),
    ]
    assert 0.5 < sum(row.bytes for row in rows) / filled.stat().st_size < 1
    assert rows[0].cells() == ("new", "1", "40", f"{rows[0].bytes / 1e6:.2f}", "1970-01-01", "1970-01-01")
    assert cache_summary(filled.with_name("none.sqlite")) == []


@pytest.mark.parametrize(
    ("which", "left"),
    [
        ({"older_than_s": 999}, {"new": 40}),
        ({"older_than_s": 1000}, {"new": 40, "old": 40}),  # exactly so old is not older
        ({"older_than_s": -1}, {}),
        ({"model": "new"}, {"old": 40}),
        ({"model": "new", "older_than_s": 500}, {"new": 40, "old": 40}),
        ({"everything": True}, {}),
        ({"to_bytes": 10**9}, {"new": 40, "old": 40}),
        ({"to_bytes": 0}, {}),
        ({"model": "old", "to_bytes": 0}, {"new": 40}),
    ],
)
def test_pruning_removes_what_it_is_told_and_says_how_much(filled: Path, which: Any, left: dict[str, int]) -> None:
    before, size = cache_summary(filled), filled.stat().st_size
    removed = prune(filled, **which)
    after = cache_summary(filled)
    assert {row.model: row.replies for row in after} == left
    assert removed.replies == sum(row.replies for row in before) - sum(row.replies for row in after)
    assert removed.bytes == sum(row.bytes for row in before) - sum(row.bytes for row in after)
    assert filled.stat().st_size <= size - 0.8 * removed.bytes, "the disk has the room again"


def test_pruning_to_a_size_keeps_the_newest(filled: Path) -> None:
    one = cache_summary(filled)[0].bytes // 40
    prune(filled, to_bytes=50 * one + one // 2)
    assert {row.model: row.replies for row in cache_summary(filled)} == {"new": 40, "old": 10}


def test_pruning_needs_to_be_told_what(filled: Path) -> None:
    with pytest.raises(ConfigError, match="say what to remove"):
        prune(filled)
    with pytest.raises(ConfigError, match="no replies of model 'nwe'; did you mean 'new'"):
        prune(filled, model="nwe")
    assert prune(filled.with_name("none.sqlite"), everything=True) == (0, 0)


def test_pruning_does_not_disturb_a_run(filled: Path) -> None:
    model = BatchModel()
    running = CachedModel(model, filled)
    replies_of(running, [ask("a")])
    prune(filled, everything=True)
    replies_of(running, [ask("a"), ask("b")])
    running.close()
    assert model.calls == [["a"], ["a", "b"]]
    assert [row.replies for row in cache_summary(filled)] == [2]


def no_database(path: Path) -> None:
    path.write_text("not a database, but long enough to be looked at " * 10)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwritten(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096 * 2 : -4096] = b"\xa5" * (len(data) - 4096 * 3)
    path.write_bytes(data)


def made_by_another_version(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as store:
        store.execute("CREATE TABLE replies (key BLOB PRIMARY KEY, reply TEXT) WITHOUT ROWID")


@pytest.mark.parametrize("damage", [no_database, cut_short, overwritten, made_by_another_version])
def test_a_damaged_file_is_one_line_with_the_way_out(filled: Path, damage: Any) -> None:
    damage(filled)

    def use() -> None:
        cached = CachedModel(BatchModel(name="new"), filled)
        try:
            replies_of(cached, [ask(f"{n} " + "long " * 500) for n in range(40)])
        finally:
            cached.close()

    for work in (use, lambda: cache_summary(filled), lambda: prune(filled, everything=True)):
        with pytest.raises(DataError) as caught:
            work()
        assert str(caught.value).startswith(f"{filled}: not a usable reply cache: ")
        assert "name another file with RLAIF_REPLIES" in str(caught.value) and "\n" not in str(caught.value)
        assert "delete" not in str(caught.value), "other runs' replies are in there"


@pytest.mark.parametrize(
    "kept",
    ["'x'", "''", '\'{"label_logprobs":{"A":null}}\'', "'{\"text\":7}'", "X'ff00'", "'[]'", "CAST(X'ff' AS TEXT)"],
)
def test_a_row_that_is_no_reply_is_asked_again_and_costs_no_other(
    filled: Path, kept: str, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = [ask(f"{n} " + "long " * 500) for n in range(40)]
    with closing(sqlite3.connect(filled)) as store, store:
        store.execute(f"UPDATE replies SET reply = {kept} WHERE rowid = (SELECT MAX(rowid) FROM replies)")
    asked = []
    for _ in range(2):
        model = BatchModel(name="new")
        cached = CachedModel(model, filled)
        assert all(reply.error is None for reply in replies_of(cached, questions))
        asked.append(len(model.calls[0]) if model.calls else 0)
        cached.close()
    assert asked == [1, 0]
    assert "1 kept replies of new were no answers; asked again" in capsys.readouterr().out


class SaysWhatItIsGiven(InLots):
    """A backend that checks nothing."""

    name, revision = "unchecked", "1"

    def __init__(self, replies: Sequence[Reply]) -> None:
        self.replies, self.asked = replies, 0

    def lots(self, requests: Iterable[ChatRequest]) -> Iterator[Lot]:
        self.asked += len(list(requests))
        yield list(enumerate(self.replies))

    def close(self) -> None: ...


SOUND = Reply(label_logprobs={"A": -0.1, "B": -3.0})


@pytest.mark.parametrize(
    "bad",
    [
        Reply(label_logprobs={"A": 0.0, "B": float("-inf")}),
        Reply(label_logprobs={"A": float("nan"), "B": -1.0}),
        Reply(label_logprobs={"A": -1.0, "B": float("inf")}),
        Reply(label_logprobs={"A": -1.0, "B": 1000.0}),
        Reply(label_logprobs={"A": 0.9, "B": 0.1}),
        Reply(label_logprobs={"A": 0.0, "B": 0.0}),
        Reply(label_logprobs={"A": -1.0}),
        Reply(text="A"),
        SOUND.model_copy(update={"text": "\ud83d"}),
        SOUND.model_copy(update={"error": "no: \udc00"}),
        Reply(label_logprobs={"A": -1.0, "B": -1.0, "\udc00": -1.0}),
    ],
)
def test_what_is_no_answer_is_never_kept_and_costs_no_other(tmp_path: Path, bad: Reply) -> None:
    requests = [ask(text).model_copy(update={"labels": ("A", "B")}) for text in "abc"]
    for left in (3, 1):
        model = SaysWhatItIsGiven([SOUND, bad, SOUND] if left == 3 else [bad])
        cached = CachedModel(model, tmp_path / "replies.sqlite")
        replies = replies_of(cached, requests)
        cached.close()
        assert replies[0] == replies[2] == SOUND and model.asked == left
        assert isinstance(label_logprobs(replies[1], ("A", "B"), 0.0), NoVerdict)
        assert f"{replies[1]}".encode(), "a row of failures.jsonl can hold what is said of it"


def test_a_reply_that_the_file_cannot_hold_costs_no_other(tmp_path: Path) -> None:
    cached = CachedModel(SaysWhatItIsGiven([Reply(text="a"), Reply(text="b" * 2000), Reply(text="c")]), tmp_path / "r")
    cached._store._store.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1000)
    assert [reply.text[0] for reply in replies_of(cached, [ask("a"), ask("b"), ask("c")])] == ["a", "b", "c"]
    cached.close()
    assert cache_summary(tmp_path / "r")[0].replies == 2


def test_replies_of_an_earlier_way_of_asking_are_not_reused(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    replies_of(store(BatchModel()), [ask("a")])
    monkeypatch.setattr("rlaif.models.cache.model.ASKED", 10**6)
    model = BatchModel()
    replies_of(store(model), [ask("a")])
    assert model.calls == [["a"]]


def test_a_file_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/replies\.sqlite: .*; name another file with RLAIF_REPLIES"):
        CachedModel(BatchModel(), tmp_path / "file" / "replies.sqlite")
    with pytest.raises(DataError, match=r"the reply cache cannot be used: unable to open"):
        CachedModel(BatchModel(), tmp_path)


@settings(max_examples=20)  # a new file for each
@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=8), max_size=4))
def test_whatever_is_asked_the_order_and_the_questions_match(
    tmp_path_factory: pytest.TempPathFactory, calls: list[list[str]]
) -> None:
    model = BatchModel()
    cached = CachedModel(model, tmp_path_factory.mktemp("asked") / "replies.sqlite")
    try:
        for texts in calls:
            assert [reply.text[0] for reply in replies_of(cached, [ask(text) for text in texts])] == texts
        asked = [text for call in model.calls for text in call]
        assert sorted(asked) == sorted({text for texts in calls for text in texts})
    finally:
        cached.close()


# ------------------------------------------------------------------------------------ kills and processes

CHILD = """
import json, sys
from pathlib import Path
from rlaif.models.cache import CachedModel
from rlaif.models.engine import ask as replies_of
from tests.test_cache import BatchModel, ask

folder, die_after = Path(sys.argv[1]), json.loads(sys.argv[2])
model = CachedModel(BatchModel(die_after, folder / "batches.jsonl"), folder / "replies.sqlite")
replies = replies_of(model, [ask(f"q{n}") for n in range(20)])
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


def test_replies_are_their_users_alone(tmp_path: Path) -> None:
    """With what SQLite writes beside them. A file that is there keeps its mode: a team may share one."""
    path = tmp_path / "cache" / "replies.sqlite"
    store = ReplyStore(path)
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    store.close()
    path.chmod(0o644)  # as an earlier version left it
    ReplyStore(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o660)
    ReplyStore(path).close()
    assert path.stat().st_mode & 0o777 == 0o660
