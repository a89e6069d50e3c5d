"""Whatever the server does and whenever this program is killed: every pair is judged or says why not, nothing is asked
more often than allowed, and what was judged is what an undisturbed run judges."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tenacity import wait_exponential

from rlaif.config.feedback import LabelSection
from rlaif.config.judging import CompareMode
from rlaif.config.models import ClientModel
from rlaif.constitution import Constitution, Principle
from rlaif.errors import ModelError
from rlaif.feedback.judge import SingleJudge
from rlaif.feedback.judge.result import JudgeResult
from rlaif.jsonl import write_jsonl
from rlaif.models.cache import CachedModel, cache_summary
from rlaif.models.client import HttpChatModel
from rlaif.models.engine import ChatRequest, Reply
from rlaif.models.engine import ask as replies_of
from rlaif.records import Judgment, Message, Pair, Prompt, Response
from rlaif.run_folder import Run
from tests.faulty_server import FAULTS, LASTING, PASSING, FaultyServer, faulty_server, seeded
from tests.tiers import seeds, some

MAX_TRIES = 5
CONCURRENCY = 8
SILENT = {"hang", "trickle"}
PATIENCE_S = (60.0, 1.0)
"""Only who waits for what never comes waits briefly: a busy machine is no fault of the server."""
CONSTITUTION = Constitution(
    schema="rlaif/constitution/v1",
    id="short",
    version="1.0.0",
    title="Short",
    principles=(Principle(id="brief", compare="Which response is shorter?"),),
)


def pairs(n: int) -> list[Pair]:
    """Two questions each: both orders of one principle."""
    prompts = [Prompt.of((Message(role="user", content=f"Question {number}"),)) for number in range(n)]
    return [Pair.of(prompt, f"one {number}", f"two {number}") for number, prompt in enumerate(prompts)]


def judge(cache: Path, n: int, *urls: str, **settings: Any) -> JudgeResult:
    """The first n pairs, by a client of these servers behind the cache."""
    config = {"timeout_s": 60.0, "max_tries": MAX_TRIES, "concurrency": CONCURRENCY} | settings
    client = ClientModel(model="judge", revision="1", base_urls=urls, **config)
    model = CachedModel(HttpChatModel(client, wait_exponential(multiplier=0.02)), cache)
    try:
        return SingleJudge(CompareMode(), CONSTITUTION, LabelSection(), 0)(model, pairs(n))
    finally:
        model.close()


def read(cache: Path, n: int, *urls: str, **settings: Any) -> list[Reply]:
    """How likely two answers to each of the first n questions are."""
    config = {"timeout_s": 60.0, "max_tries": MAX_TRIES, "concurrency": CONCURRENCY} | settings
    client = ClientModel(model="judge", revision="1", base_urls=urls, **config)
    model = CachedModel(HttpChatModel(client, wait_exponential(multiplier=0.02)), cache)
    asked = [(Message(role="user", content=f"Question {number}"),) for number in range(n)]
    try:
        return replies_of(model, [ChatRequest(messages=turn, answer=text) for turn in asked for text in ("one", "two")])
    finally:
        model.close()


@pytest.fixture(scope="module")
def peaceful(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Judgment]:
    """What a server without faults gets for each pair."""
    with faulty_server() as server:
        result = judge(tmp_path_factory.mktemp("peaceful") / "replies.sqlite", 100, server.url)
    assert len(result.judgments) == 100
    return {judgment.pair.id: judgment for judgment in result.judgments}


def check_whole(result: JudgeResult, n: int, peaceful: dict[str, Judgment]) -> None:
    """Every pair once, as a judgment that a peaceful run gives too, or as failures."""
    judged = [judgment.pair.id for judgment in result.judgments]
    failed = {failure.id for failure in result.failures}
    assert Counter(judged) + Counter(failed) == Counter(pair.id for pair in pairs(n))
    assert all(judgment == peaceful[judgment.pair.id] for judgment in result.judgments)


# ------------------------------------------------------------------------------------------- one server


@pytest.mark.parametrize("fault", PASSING)
def test_trouble_that_passes_costs_no_pair(fault: str, tmp_path: Path, peaceful: dict[str, Judgment]) -> None:
    unlucky = [f"Question {number}\n" for number in (3, 7, 11)]  # both orders each

    def once(content: str, nth: int) -> str | None:
        if fault == "die" and server.met["die"]:
            return None  # one death, or those that follow use up the tries of those in flight
        return fault if nth == 1 and any(text in content for text in unlucky) else None

    with faulty_server(once) as server:
        result = judge(tmp_path / "replies.sqlite", 20, server.url, timeout_s=PATIENCE_S[fault in SILENT])
    assert result.failures == ()
    check_whole(result, 20, peaceful)
    assert server.met[fault] > 0
    assert max(server.asked.values()) <= MAX_TRIES


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "die"])
def test_trouble_that_stays_ends_as_failures_with_the_true_reason(
    fault: str, tmp_path: Path, peaceful: dict[str, Judgment]
) -> None:
    reasons = LASTING | {
        "refuse": "failed after 2 tries: the server hung up",
        "hang": "failed after 2 tries: no reply within 1 s",
        "busy": "failed after 2 tries: HTTP 429: slow down",
        "error": "failed after 2 tries: HTTP 500: oops",
        "truncated": "failed after 2 tries: the reply is not JSON: ",
        "cut": "failed after 2 tries: the server hung up in the middle of its reply",
        "trickle": "failed after 2 tries: no reply within 1 s",
    }

    def always(content: str, _nth: int) -> str | None:
        return fault if "Question 3\n" in content else None

    with faulty_server(always) as server:
        result = judge(tmp_path / "replies.sqlite", 5, server.url, timeout_s=PATIENCE_S[fault in SILENT], max_tries=2)
    unlucky = pairs(5)[3].id
    assert [(failure.id, failure.first) for failure in result.failures] == [(unlucky, "a"), (unlucky, "b")]
    for failure in result.failures:
        assert failure.reason == "model error" and reasons[fault] in failure.detail
    check_whole(result, 5, peaceful)
    assert max(server.asked.values()) == (1 if fault in LASTING else 2)


@seeds(4)
def test_all_troubles_at_once(seed: int, tmp_path: Path, peaceful: dict[str, Judgment]) -> None:
    cache = tmp_path / "replies.sqlite"
    with faulty_server(seeded(seed, 0.3)) as server:
        result = judge(cache, 40, server.url, concurrency=32, timeout_s=1.0)
    check_whole(result, 40, peaceful)
    assert all(failure.reason == "model error" and failure.detail for failure in result.failures)
    assert len(server.met) > 5 and result.failures
    assert max(server.asked.values()) <= MAX_TRIES

    with faulty_server() as mended:
        again = judge(cache, 40, mended.url)
    assert again.failures == ()
    check_whole(again, 40, peaceful)
    assert mended.asked.total() == len(result.failures), "only what failed is asked again"


@seeds(4)
def test_all_troubles_at_once_for_answers_that_are_read(seed: int, tmp_path: Path) -> None:
    cache = tmp_path / "replies.sqlite"
    with faulty_server() as server:
        peaceful_ = read(tmp_path / "peaceful.sqlite", 40, server.url)
    assert not any(reply.error for reply in peaceful_) and len({reply.likelihood for reply in peaceful_}) == 80

    with faulty_server(seeded(seed, 0.3)) as server:
        replies = read(cache, 40, server.url, concurrency=32, timeout_s=1.0)
    known = [reply for reply in replies if reply.error is None]
    assert all(reply == wanted for reply, wanted in zip(replies, peaceful_, strict=True) if reply.error is None)
    assert 0 < len(known) < 80 and len(server.met) > 5
    assert max(server.asked.values()) <= 2 * MAX_TRIES, "two answers to each question"

    with faulty_server() as mended:
        assert read(cache, 40, mended.url) == peaceful_
    assert mended.asked.total() == 80 - len(known), "only what failed is asked again"


# --------------------------------------------------------------------------------------------- replicas


def test_one_replica_of_three_dies_for_good(tmp_path: Path, peaceful: dict[str, Judgment]) -> None:
    with faulty_server() as one, faulty_server(lifetime=5) as mortal, faulty_server() as other:
        result = judge(tmp_path / "replies.sqlite", 60, one.url, mortal.url, other.url)
    assert result.failures == ()
    check_whole(result, 60, peaceful)
    assert mortal.answered == 5
    assert max((one.asked + mortal.asked + other.asked).values()) <= MAX_TRIES


@pytest.mark.parametrize("fault", ["refuse", "busy", "error", "truncated"])
def test_a_sick_replica_takes_few_questions_though_it_is_the_least_busy(
    fault: str, tmp_path: Path, peaceful: dict[str, Judgment]
) -> None:
    """It answers at once and so always has the fewest in flight."""
    with faulty_server(delay_s=0.02) as well, faulty_server(lambda _content, _nth: fault) as sick:
        result = judge(tmp_path / "replies.sqlite", 60, well.url, sick.url, concurrency=16)
    assert result.failures == ()
    check_whole(result, 60, peaceful)
    assert sick.asked.total() < 20


def test_a_server_that_takes_few_at_once_gets_few_at_once(tmp_path: Path, peaceful: dict[str, Judgment]) -> None:
    """With 429 for all above: who sends on regardless uses up the tries of most questions."""

    def full(_content: str, _nth: int) -> str | None:
        return "busy" if server.asked.total() - server.answered - server.met.total() > 4 else None

    with faulty_server(full, delay_s=0.03) as server:
        result = judge(tmp_path / "replies.sqlite", 100, server.url, concurrency=64, max_tries=10)
    assert result.failures == ()
    check_whole(result, 100, peaceful)
    assert server.met["busy"] < 200


def test_all_replicas_die(tmp_path: Path, peaceful: dict[str, Judgment]) -> None:
    cache = tmp_path / "replies.sqlite"
    with (
        faulty_server(lifetime=20) as one,
        faulty_server(lifetime=30) as other,
        pytest.raises(ModelError, match=rf"^cannot reach {one.url}, {other.url} \(5 tries\): Connection refused$"),
    ):
        judge(cache, 60, one.url, other.url)
    stored = sum(row.replies for row in cache_summary(cache))
    assert 50 - CONCURRENCY <= stored <= 50  # the last may have died on their way
    with faulty_server() as server:
        result = judge(cache, 60, server.url)
    check_whole(result, 60, peaceful)
    assert server.asked.total() == 120 - stored


def test_the_last_questions_are_not_failures_when_the_servers_die(tmp_path: Path) -> None:
    """All in flight at once, so that nobody comes after them to notice."""
    with faulty_server(lifetime=30) as server, pytest.raises(ModelError, match="cannot reach"):
        judge(tmp_path / "replies.sqlite", 20, server.url, concurrency=40)


# -------------------------------------------------------------------------------- processes and kills

CHILD = """
import sys
from pathlib import Path
from tests.test_nothing_lost import judge

url, cache = sys.argv[1:]
sys.stdin.readline()
for judgment in judge(Path(cache), 60, url).judgments:
    print(judgment.model_dump_json())
"""


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A process of its own, with pipes to it and from it."""
    command = [sys.executable, "-c", code, *arguments]
    root = Path(__file__).parents[1]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)


def test_two_processes_share_cache_and_server_and_say_the_same(tmp_path: Path) -> None:
    """Though the server changes its mind: the reply that was stored first stands for both."""
    cache = tmp_path / "replies.sqlite"
    with faulty_server(wavering=True, delay_s=0.005) as server:
        both = [python(CHILD, server.url, str(cache)) for _ in range(2)]
        for process in both:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert said[0] == said[1] and said[0].count("\n") == 60
    assert max(server.asked.values()) <= 2
    assert [row.replies for row in cache_summary(cache)] == [120]


FORKS = """
import os, sys
from pathlib import Path
import rlaif.models.client, rlaif.models.cache
from rlaif.config import load_recipe
from rlaif.pipeline import run_recipe

recipe = load_recipe(sys.argv[1])
for folder in sys.stdin:
    child = os.fork()
    if not child:
        sys.stdout = open(os.devnull, "w")
        run_recipe(recipe, Path(folder.strip()), ["label"])
        os._exit("torch" in sys.modules)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Starts the label stage on each folder it is told, in a process of its own that need not import everything again."""


class Labelling:
    """The label stage as processes that can be killed."""

    def __init__(self, folder: Path, server: FaultyServer) -> None:
        recipe = self._write_inputs(folder, server.url)
        self._server = server
        self._parent = python(FORKS, str(recipe))

    def _write_inputs(self, folder: Path, url: str) -> Path:
        self.inputs = folder
        responses = [
            Response(
                id=f"{pair.id}-{index}",
                prompt_id=pair.prompt_id,
                prompt=pair.prompt,
                index=index,
                text=text,
                finished=True,
                tokens=2,
                model="none",
            )
            for pair in pairs(200)
            for index, text in enumerate((pair.a, pair.b))
        ]
        write_jsonl(folder / "responses.jsonl", responses)
        (folder / "prompts.jsonl").write_text('{"prompt": "unused here"}\n')
        (folder / "short.yaml").write_text(CONSTITUTION.model_dump_json(by_alias=True, exclude_defaults=True))
        values = {
            "name": "short",
            "constitution": str(folder / "short.yaml"),
            "policy": {"backend": "local", "model": "smollm2-135m", "dtype": "float32"},
            "judge": {
                "backend": "client",
                "model": "judge",
                "revision": "1",
                "base_urls": [url],
                "concurrency": CONCURRENCY,
            },
            "prompts": {"sources": [{"kind": "file", "path": str(folder / "prompts.jsonl")}]},
            "label": {"max_failures": 0.1},
        }
        (folder / "recipe.yaml").write_text(json.dumps(values))
        return folder / "recipe.yaml"

    def label(self, run: Run, kill_at: int | None = None, delay_s: float = 0.0) -> int:
        """The exit code of one life, killed so long after its n-th question has come."""
        if not run.responses.exists():
            run.folder.mkdir(parents=True)
            (run.folder / "responses.jsonl").symlink_to(self.inputs / "responses.jsonl")
            (run.folder / "recipe.yaml").symlink_to(self.inputs / "recipe.yaml")
        assert self._parent.stdin is not None and self._parent.stdout is not None
        questions = iter(range(1, 10_000))
        pids: list[int] = []

        def count() -> None:
            if next(questions) == kill_at:
                self._server.later(delay_s, lambda: os.kill(pids[0], signal.SIGKILL))

        self._server.on_request = count
        self._parent.stdin.write(f"{run.folder}\n")
        self._parent.stdin.flush()
        pids.append(int(self._parent.stdout.readline()))
        return int(self._parent.stdout.readline())

    def close(self) -> None:
        self._parent.communicate()


@pytest.fixture
def labelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Labelling, FaultyServer]]:
    def some_fail(content: str, _nth: int) -> str | None:
        return "no_logprobs" if "Question 17\n" in content else None

    monkeypatch.setenv("RLAIF_REPLIES", str(tmp_path / "replies.sqlite"))
    with faulty_server(some_fail, delay_s=0.01) as server:
        work = Labelling(tmp_path, server)
        yield work, server
        work.close()


def test_another_run_asks_only_what_failed(labelling: tuple[Labelling, FaultyServer], tmp_path: Path) -> None:
    work, server = labelling
    one, other = Run(tmp_path / "one"), Run(tmp_path / "other")
    assert work.label(one) == 0
    asked = server.asked.total()
    assert work.label(other) == 0
    assert (asked, server.asked.total()) == (400, 403), "both orders of Question 17, and once whether it is the server"
    assert one.judgments.read_bytes() == other.judgments.read_bytes()


@some("kills", [3], [20])
def test_kills_end_in_the_same_bytes(labelling: tuple[Labelling, FaultyServer], tmp_path: Path, kills: int) -> None:
    work, server = labelling
    cache, rng = tmp_path / "replies.sqlite", random.Random(20)
    killed, untouched = Run(tmp_path / "killed"), Run(tmp_path / "untouched")
    # A life loses what it had read ahead, twice as much as is in flight; of Question 17 nothing is ever stored: two
    # askings, and one whether it is the server. Counted over all lives, as what a killed one sent may come late.
    most = 2 * CONCURRENCY + 3
    stored = 0
    for life in range(1, kills + 1):
        assert work.label(killed, kill_at=rng.randint(1, 30), delay_s=rng.uniform(0, 0.015)) == -signal.SIGKILL
        stored = sum(row.replies for row in cache_summary(cache))
        assert server.asked.total() - stored <= life * most
    assert 2 * kills < stored < 398
    assert work.label(killed) == 0
    assert server.asked.total() - len(server.asked) <= kills * most + 2

    cache.rename(tmp_path / "other.sqlite")
    assert work.label(untouched) == 0
    assert killed.judgments.read_bytes() == untouched.judgments.read_bytes()
    assert killed.failures.read_bytes() == untouched.failures.read_bytes()
    assert len(killed.judgments.read_text().splitlines()) == 199
    assert len(killed.failures.read_text().splitlines()) == 2
