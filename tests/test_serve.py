"""The service: each trainer's own request and reply, batches, the queue's bound, and who is told what went wrong."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from pathlib import Path
from typing import Any

import pytest

import rlaif
from rlaif.api.scorers import Scored
from rlaif.errors import ConfigError, DataError, ModelError
from rlaif.models.engine import ChatRequest, Reply
from rlaif.models.local.parsing import TextParser
from rlaif.models.reasoning import set_apart
from rlaif.serve.batching import Batcher, QueueFull
from rlaif.serve.opening import Wish, open_target
from rlaif.serve.protocols import PROTOCOLS
from rlaif.serve.service import Limits
from rlaif.serve.target import Question
from rlaif.testing import likes_letters, save_tiny, tiny_tokenizer
from tests.served import Lengths, Served, judged_by, serving

pytest.importorskip("fastapi", reason="needs the extra `serve`")
pytest.importorskip("prometheus_client", reason="needs the extra `serve`")

PROMPT = "Say it"
TEXT = "plain words"


TWICE = "<think>a</think>Close it by </think> and go on"


def templated(prompt: str = PROMPT, text: str = TEXT, tokenizer: Any = None) -> str:
    turns = [{"role": "user", "content": prompt}]
    tokenizer = tokenizer or tiny_tokenizer()
    before = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return f"{before}{text}{tokenizer.eos_token}"


def response_object(text: str) -> dict[str, Any]:
    parts = [{"type": "output_text", "text": text, "annotations": []}]
    reasoning = {"type": "reasoning", "id": "r", "summary": []}
    return {"id": "x", "output": [reasoning, {"type": "message", "role": "assistant", "content": parts}]}


BODIES: dict[str, tuple[dict[str, Any], Any]] = {
    "/score": ({"prompt": PROMPT, "response": TEXT}, lambda reply: reply["value"]),
    "/get_reward": (
        {"query": [templated()], "prompts": [templated(text="").removesuffix("<|im_end|>")], "labels": ["x"]},
        lambda reply: reply["rewards"][0],
    ),
    "/slime": ({"prompt": PROMPT, "response": TEXT, "label": None}, lambda reply: reply),
    "/v1/score/evaluation": ({"model": "model", "messages": [templated()]}, lambda reply: reply["scores"][0]),
    "/classify": (
        {"model": "rm", "input": templated(), "use_activation": False},
        lambda reply: reply["data"][-1]["probs"][-1],
    ),
    "/v1/embeddings": ({"model": "rm", "input": templated()}, lambda reply: reply["data"][-1]["embedding"][-1]),
    "/verify": (
        {
            "responses_create_params": {"input": [{"role": "user", "content": PROMPT}]},
            "response": response_object(TEXT),
            "extra": 1,
        },
        lambda reply: reply["reward"],
    ),
}
"""A trainer's request for one conversation, and where its reply has the number."""


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model that was trained on something."""
    folder = tmp_path_factory.mktemp("model")
    pairs = [(f"Say {n}", "some words", str(n)) for n in range(12)]
    judged = rlaif.judge(pairs, "plain-and-brief", "scripted:rlaif.testing:likes_letters")
    rows = rlaif.preferences(judged)
    rlaif.train_reward_model(rows, save_tiny(folder / "tiny"), folder / "rm", lora=None, minibatch_size=8)
    return folder / "rm"


@pytest.mark.parametrize("path", BODIES)
def test_every_protocol_gives_what_the_reward_model_gives(path: str, model_folder: Path, tmp_path: Path) -> None:
    expected = rlaif.RewardModel.load(model_folder).score([(PROMPT, TEXT)])[0]
    opened = open_target(Wish(str(model_folder)), "scope")
    body, value = BODIES[path]
    with serving(opened.target, tmp_path, opened.parser) as served:
        reply = served.post(path, body)
        assert reply.status_code == 200, reply.text
        assert value(reply.json()) == pytest.approx(expected, abs=1e-6)
        (row,) = served.rows()
    assert (row["value"], row["text"]) == (value(reply.json()), TEXT)
    assert row["prompt"] == [{"role": "user", "content": PROMPT}] and row["revision"]


@pytest.mark.parametrize("path", BODIES)
def test_no_score_is_an_error_of_the_server_and_never_a_number(path: str, tmp_path: Path) -> None:
    body = json.loads(json.dumps(BODIES[path][0]).replace(TEXT, "none"))
    with serving(Lengths(), tmp_path, TextParser(tiny_tokenizer())) as served:
        reply = served.post(path, body)
        assert reply.status_code == 500 and reply.json()["error"]["message"] == "it says none"
        assert [row["value"] for row in served.rows()] == [None]


@pytest.mark.parametrize("path", BODIES)
def test_what_no_score_could_be_had_of_is_the_requests_fault(path: str, tmp_path: Path) -> None:
    class Short(Lengths):
        def score(self, questions: Any) -> list[Scored]:
            return [Scored(None, "9 tokens, and the reward model reads at most 8", refused=True) for _ in questions]

    with serving(Short(), tmp_path, TextParser(tiny_tokenizer())) as served:
        reply = served.post(path, BODIES[path][0])
        assert reply.status_code == 422 and reply.json()["error"]["type"] == "invalid_request_error"
        assert reply.json()["error"]["message"] == "9 tokens, and the reward model reads at most 8"
        assert [row["value"] for row in served.rows()] == [None]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/score", {"prompt": "p", "response": "too much"}),
        ("/judge", {"prompt": "p", "a": "too much", "b": "c"}),
        ("/compare", {"conversation_history": [{"role": "user", "content": "too much"}],
                      "response_objs": [response_object("a"), response_object("b")]}),
    ],
)  # fmt: skip
def test_what_is_too_long_for_the_judge_is_the_requests_fault(path: str, body: Any, tmp_path: Path) -> None:
    def short(request: ChatRequest) -> Reply | dict[str, float]:
        if "too much" in request.messages[-1].content:
            return Reply(error="prompt of 900 tokens does not fit a context of 512", refused="length")
        return rates(request)

    with serving(judged_by(constitution("kind"), short), tmp_path) as served:
        reply = served.post(path, body)
        both = [{"prompt": "p", "response": "too much"}, {"prompt": "p", "response": "c"}]
        mixed = served.post("/score", {"conversations": both}).json()["scores"]
    assert reply.status_code == 422, reply.text
    assert "prompt of 900 tokens does not fit a context of 512" in reply.json()["error"]["message"]
    assert [one["value"] is None for one in mixed] == [True, False] and "900 tokens" in mixed[0]["reason"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/score", {"prompt": "p", "response": "<think>abc"}),
        ("/classify", {"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "<think>abc"}]}),
        ("/judge", {"prompt": "p", "a": "<think>abc", "b": "c"}),
    ],
)
def test_reasoning_without_an_answer_has_no_score(path: str, body: Any, tmp_path: Path) -> None:
    with serving(Lengths(), tmp_path) as served:
        reply = served.post(path, body)
    assert reply.status_code == 500 and "reasoning without an answer" in reply.json()["detail"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/score", {"prompt": PROMPT, "response": TWICE}),
        ("/get_reward", {"query": [templated(text=TWICE)]}),
        ("/slime", {"prompt": PROMPT, "response": TWICE}),
    ],
)
def test_reasoning_is_set_apart_once(path: str, body: Any, tmp_path: Path) -> None:
    """An answer that speaks of the marker is not taken for reasoning when the block before it has gone."""
    with serving(Lengths(), tmp_path, TextParser(tiny_tokenizer())) as served:
        assert served.post(path, body).status_code == 200
        assert [row["text"] for row in served.rows()] == [set_apart(body.get("response") or TWICE).answer]


def test_what_is_no_reward_model_ends_at_the_start(model_folder: Path) -> None:
    with pytest.raises(ConfigError, match="no reward model of this rlaif's"):
        open_target(Wish(str(model_folder.parent / "tiny")), "scope")


def test_our_own_protocol_has_a_place_for_no_score(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "response": text} for text in ("ab", "none", "abc")]
    with serving(Lengths(), tmp_path) as served:
        reply = served.post("/score", {"conversations": rows}).json()
    assert [one["value"] for one in reply["scores"]] == [2.0, None, 3.0]
    assert [one["reason"] for one in reply["scores"]] == [None, "it says none", None]


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/get_reward", {"query": ["### Human: hi"]}, "chat template writes a conversation"),
        ("/get_reward", {"query": [templated()], "prompts": ["a", "b"]}, "2 of them to 1 queries"),
        ("/get_reward", {"query": []}, "query"),
        ("/v1/score/evaluation", {"messages": [3]}, "messages.0"),
        ("/score", {}, "needs `prompt` and `response`"),
        ("/score", {"prompt": [{"role": "tool", "content": "x"}], "response": "y"}, "a turn of a tool"),
        ("/score", {"prompt": [{"role": "assistant", "content": "x"}], "response": "y"}, "must end with a user turn"),
        ("/score", {"prompt": "x", "response": "y", "principles": ["kind"]}, "none to choose from"),
        ("/classify", {"model": "m"}, "must be a text"),
        ("/classify", {"messages": [{"role": "user", "content": "x"}]}, "must end with the assistant's turn"),
        ("/verify", {"responses_create_params": {"input": 3}, "response": {}}, "must be a text or messages"),
        ("/verify", {"responses_create_params": {"input": "x"}, "response": {"output": "y"}}, "must be a list"),
        ("/judge", {"prompt": "x", "a": "y", "b": "z"}, "judges no pairs"),
        ("/judge", {"prompt": "x", "a": "y", "b": "y"}, "the same text"),
        ("/score", {"conversations": [{"prompt": "x", "response": "y", "tags": 5}]}, "conversations.0.tags"),
        ("/score", {"conversations": [{"prompt": "x", "response": "y", "principles": "kind"}]}, "principles"),
        ("/score", {"prompt": "x", "response": "y", "conversations": []}, "or `conversations`"),
        (
            "/compare",
            {
                "conversation_history": [{"role": "user", "content": "p"}],
                "principle": " ",
                "response_objs": [response_object("a"), response_object("b")],
            },
            "principle: blank",
        ),
    ],
)
def test_a_request_at_fault_is_said_in_one_line(path: str, body: Any, said: str, tmp_path: Path) -> None:
    with serving(Lengths(), tmp_path, TextParser(tiny_tokenizer())) as served:
        reply = served.post(path, body)
        assert reply.status_code == 422 and said in reply.json()["error"]["message"]
        assert "\n" not in reply.json()["detail"] and served.rows() == []


def test_without_a_template_templated_texts_are_refused_and_others_are_not(tmp_path: Path) -> None:
    with serving(Lengths(), tmp_path) as served:
        refused = served.post("/get_reward", {"query": [templated()]})
        assert refused.status_code == 422 and "--template" in refused.json()["detail"]
        assert served.post("/slime", {"prompt": [{"role": "user", "content": "x"}], "response": "abc"}).json() == 3.0


TRAINERS = json.loads((Path(__file__).parent / "golden" / "trainer_requests.json").read_text())
"""What each trainer's client sends, as its source builds it, with the version that was read."""


@pytest.mark.parametrize("said", TRAINERS, ids=[one["peer"] for one in TRAINERS])
def test_what_a_trainer_sends_gets_what_it_reads(said: dict[str, Any], tmp_path: Path) -> None:
    with serving(Lengths(), tmp_path, TextParser(tiny_tokenizer())) as served:
        reply = served.post(said["path"], said["request"])
        assert reply.status_code == 200 and reply.headers["content-type"] == "application/json", reply.text
        assert reply.json() == said["reply"]
        assert {row["text"] for row in served.rows()} == {TEXT}
        assert all(row["prompt"] == [{"role": "user", "content": PROMPT}] for row in served.rows())


# ------------------------------------------------------------------------------------------------------- a judge


def constitution(*ids: str, question: bool = True) -> rlaif.Constitution:
    asked = {"question": "Is it good?", "desired": "yes"} if question else {}
    principles = [{"id": one, "compare": f"Which response is {one}?", **asked} for one in ids]
    return rlaif.Constitution.model_validate(
        {"schema": "rlaif/constitution/v1", "id": "c", "version": "1.0.0", "title": "t", "principles": principles}
    )


def rates(request: ChatRequest) -> Reply | dict[str, float]:
    """5 for what is kind, 1 for the rest; it does not answer about what is broken."""
    text = request.messages[-1].content
    if "broken" in text:
        return Reply(error="it does not answer")
    if len(request.labels) == 2:
        return likes_letters(request)
    best = request.labels[-1] if "kind" in text else request.labels[0]
    return {label: math.log(0.9 if label == best else 0.01) for label in request.labels}


def test_a_judge_scores_and_judges_with_what_the_request_names(tmp_path: Path) -> None:
    with serving(judged_by(constitution("kind", "brief"), rates), tmp_path) as served:
        both = served.post("/score", {"prompt": "p", "response": "r"}).json()
        only = served.post("/score", {"prompt": "p", "response": "r", "principles": ["brief"]}).json()
        assert set(both["principles"]) == {"kind", "brief"} and set(only["principles"]) == {"brief"}
        unknown = served.post("/score", {"prompt": "p", "response": "r", "principles": ["bref"]})
        assert unknown.status_code == 422 and "did you mean 'brief'" in unknown.json()["detail"]
        judged = served.post("/judge", {"prompt": "p", "a": "abc", "b": "1"}).json()
        assert judged["p_a"] > 0.5 and judged["provenance"]["judge"] == "scripted"
        failed = served.post("/judge", {"prompt": "broken", "a": "abc", "b": "1"})
        assert failed.status_code == 500 and "it does not answer" in failed.json()["detail"]
        rows = served.rows()
    assert [row["kind"] for row in rows] == ["score", "score", "judgment", "judgment"]
    assert rows[1]["principles"] == ["brief"] and rows[0]["score"]["provenance"]["constitution"] == "c"
    assert rows[3]["judgment"] is None and rows[3]["failures"]


def test_a_group_is_compared_each_with_each(tmp_path: Path) -> None:
    texts = ["abcdef", "1", "abc", "1"]
    body = {
        "conversation_history": [{"role": "user", "content": "p"}],
        "response_objs": [response_object(text) for text in texts],
        "principle": "Which response has more letters?",
    }
    with serving(judged_by(constitution("kind"), rates), tmp_path) as served:
        reply = served.post("/compare", body).json()
        rows = served.rows()
    rewards = reply["rewards"]
    assert rewards[0] > rewards[2] > rewards[1] == pytest.approx(rewards[3])
    assert sum(rewards) == pytest.approx(len(texts) / 2)  # what one wins another loses
    assert len(reply["comparison_results"]) == 6 and reply["metrics"] == {"pairs": 6.0, "asked": 5.0}
    best = next(one for one in reply["comparison_results"] if (one["response_i"], one["response_j"]) == (0, 1))
    assert best["score_1"] > best["score_2"] and best["ranking"] < 3.5
    assert {row["principles"][0] for row in rows} == {"Which response has more letters?"}
    assert {row["judgment"]["principles"][0]["principle"] for row in rows} == {"request"}


def test_a_comparison_that_failed_fails_the_group(tmp_path: Path) -> None:
    body = {
        "conversation_history": [{"role": "user", "content": "p"}],
        "response_objs": [response_object(text) for text in ("abc", "broken", "x")],
    }
    with serving(judged_by(constitution("kind"), rates), tmp_path) as served:
        reply = served.post("/compare", body)
    assert reply.status_code == 500 and "it does not answer" in reply.json()["detail"]


def test_a_constitution_without_questions_judges_and_says_why_it_does_not_score(tmp_path: Path) -> None:
    with serving(judged_by(constitution("kind", question=False), rates), tmp_path) as served:
        assert served.post("/judge", {"prompt": "p", "a": "abc", "b": "1"}).status_code == 200
        reply = served.post("/score", {"prompt": "p", "response": "r"})
    assert reply.status_code == 422 and "has no `question`" in reply.json()["detail"]


# ----------------------------------------------------------------------------------------- batches and the queue


def run(work: Any) -> Any:
    return asyncio.run(work)


def test_what_is_in_flight_is_worked_on_together(tmp_path: Path) -> None:
    target, first = Lengths(), threading.Event()

    def held(questions: Any) -> Any:
        if not target.batches:
            first.wait(10)
        return Lengths.score(target, questions)

    target.score = held  # type: ignore[method-assign]

    async def many(client: Any) -> list[float]:
        asked = [
            asyncio.ensure_future(client.post("/slime", json={"prompt": "p", "response": "a" * (n + 1)}))
            for n in range(40)
        ]
        for _ in range(100_000):
            if served.service._scores.waiting == 39:  # the first is in work
                break
            await asyncio.sleep(0)
        first.set()
        return [reply.json() for reply in await asyncio.gather(*asked)]

    with serving(target, tmp_path, limits=Limits(batch=30)) as served:
        assert served.together(many) == [float(n + 1) for n in range(40)]
    assert [len(batch) for batch in target.batches] == [1, 30, 9]


def test_a_full_queue_refuses_at_once_and_begins_nothing(tmp_path: Path) -> None:
    hold = threading.Event()

    def work(items: Any) -> Any:
        hold.wait(10)
        return items

    async def asked() -> None:
        batcher = Batcher[int, int](work, waiting=2)
        first = asyncio.ensure_future(batcher.ask([1]))
        await asyncio.sleep(0)
        rest = asyncio.ensure_future(batcher.ask([2, 3]))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull, match="2 items wait already"):
            await batcher.ask([4])
        hold.set()
        assert (await first, await rest) == ([1], [2, 3])
        assert await batcher.ask([5, 6, 7]) == [5, 6, 7]  # more than may wait, and nothing waits
        batcher.close()

    run(asked())


def test_who_has_gone_is_not_worked_for() -> None:
    done, hold = [], threading.Event()

    def work(items: Any) -> Any:
        done.extend(items)
        hold.wait(10)
        return items

    async def asked() -> None:
        batcher = Batcher[int, int](work)
        first, gone, last = (asyncio.ensure_future(batcher.ask([n])) for n in range(3))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        hold.set()
        assert await asyncio.gather(first, last) == [[0], [2]]
        batcher.close()

    run(asked())
    assert done == [0, 2]


def test_one_bad_item_costs_no_other_its_answer() -> None:
    def work(items: Any) -> Any:
        return [1 / item for item in items]

    async def asked() -> list[Any]:
        batcher = Batcher[float, float](work)
        found = await asyncio.gather(*(batcher.ask([n]) for n in (1.0, 0.0, 2.0)), return_exceptions=True)
        batcher.close()
        return found

    one, bad, two = run(asked())
    assert (one, two) == ([1.0], [0.5]) and isinstance(bad, ZeroDivisionError)


class Dead(Lengths):
    """Its model is gone."""

    def score(self, questions: Any) -> list[Scored]:
        raise ModelError("judge: http://127.0.0.1:1/v1: cannot be reached")


class Slow(Lengths):
    """It never comes to an end while the test asks."""

    def __init__(self) -> None:
        super().__init__()
        self.end = threading.Event()

    def score(self, questions: Any) -> list[Scored]:
        self.end.wait(10)
        return super().score(questions)


def test_a_dead_model_and_a_slow_one_are_errors_of_the_server(tmp_path: Path) -> None:
    with serving(Dead(), tmp_path / "dead") as served:
        reply = served.post("/slime", {"prompt": "p", "response": "r"})
        assert reply.status_code == 503 and reply.headers["retry-after"] == "1"
        assert "cannot be reached" in reply.json()["detail"]
        assert served.rows() == []
    slow = Slow()
    with serving(slow, tmp_path / "slow", limits=Limits(timeout_s=0.05)) as served:
        reply = served.post("/slime", {"prompt": "p", "response": "r"})
        slow.end.set()
        assert reply.status_code == 504 and served.rows() == []


def test_a_disk_that_refuses_costs_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Lengths(), tmp_path) as served:
        monkeypatch.setattr("os.write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        reply = served.post("/slime", {"prompt": "p", "response": "r"})
        monkeypatch.undo()
        assert reply.status_code == 503 and "No space left" in reply.json()["detail"]
        assert served.rows() == []
        assert served.post("/slime", {"prompt": "p", "response": "r"}).status_code == 200


def test_what_is_counted(tmp_path: Path) -> None:
    with serving(Lengths(), tmp_path) as served:
        for text in ("ab", "none"):
            served.post("/slime", {"prompt": "p", "response": text})
        served.post("/slime", {"prompt": 3})
        served.post("/get_reward", {"query": ["x"]})
        shown = served.get("/metrics").text
        assert 'rlaif_requests_total{outcome="answered",protocol="slime"} 1.0' in shown
        assert 'rlaif_requests_total{outcome="no score",protocol="slime"} 1.0' in shown
        assert 'rlaif_requests_total{outcome="refused",protocol="openrlhf"} 1.0' in shown
        assert "rlaif_batch_size_count 2.0" in shown and "rlaif_waiting 0.0" in shown
        assert served.get("/health").json()["target"] == "lengths"
        assert served.get("/v1/models").json()["data"][0]["id"] == "lengths"


# ----------------------------------------------------------------------------------------------- what is served


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (Wish("harmles"), "did you mean 'harmlessness'"),
        (Wish("harmlessness"), "a constitution needs a judge"),
        (Wish("harmlessness", judge="nothing:x"), "no backend 'nothing'"),
        (Wish("harmlessness", judge="scripted:rlaif.testing:likes_letters", mode="compare"), "looks at two responses"),
        (Wish("harmlessness", ["seed=1"], judge="x"), "seed=1: harmlessness is a constitution"),
        (Wish("quickstart", judge="x"), "--judge: quickstart is a recipe"),
        (Wish("quickstart", ["optimise.kind=dpo"]), "scores nothing"),
        (Wish("quickstart", run=Path("nowhere")), "name the run by --run"),
        (
            Wish("quickstart", ["optimise.kind=grpo", "optimise.scoring={kind: length}"], run=Path("x")),
            "--run: the optimise.scoring of quickstart reads no reward model",
        ),
        (Wish("."), "no reward model here"),
    ],
    ids=lambda one: one.name if isinstance(one, Wish) else "",
)
def test_what_cannot_be_served_is_said_in_one_line(
    wish: Wish, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said) as refused:
        open_target(wish, "scope")
    assert "\n" not in str(refused.value)


def test_a_recipes_scoring_is_what_its_training_would_be_told(model_folder: Path, tmp_path: Path) -> None:
    scoring = "optimise.scoring={kind: sum, parts: [{source: {kind: checks}, weight: 2.0}, {source: {kind: length}}]}"
    overrides = ["optimise.kind=grpo", scoring, f"policy.model={model_folder.parent / 'tiny'}"]
    opened = open_target(Wish("quickstart", overrides), "scope")
    with serving(opened.target, tmp_path, opened.parser) as served:
        reply = served.post("/get_reward", {"query": [templated(text="A plain answer.")]}).json()
    checks, length = (reply["extra_logs"][name][0] for name in ("checks", "length"))
    assert reply["rewards"][0] == pytest.approx(2 * checks + length, abs=1e-6) and 0 < reply["scores"][0] < 1


def test_every_protocol_is_tried_here() -> None:
    others = {"/judge", "/compare", "/seed_session"}
    assert {path for path, _, _ in PROTOCOLS} == set(BODIES) | others


def test_nemo_gym_gets_its_request_back(tmp_path: Path) -> None:
    body = BODIES["/verify"][0] | {"responses_create_params": {"input": PROMPT, "instructions": "Be brief."}}
    with serving(Lengths(), tmp_path) as served:
        reply = served.post("/verify", body).json()
        (row,) = served.rows()
        assert served.post("/seed_session", {}).json() == {}
    assert reply == {**body, "reward": float(len(TEXT)), "tags": [], "principles": []}
    assert [turn["role"] for turn in row["prompt"]] == ["system", "user"]


def test_a_question_is_asked_of_a_prompt(tmp_path: Path) -> None:
    served: Served
    with serving(Lengths(), tmp_path) as served, pytest.raises(DataError, match="none to choose from"):
        question = Question(rlaif.Prompt.of((rlaif.Message(role="user", content="p"),)), "t", None, ("x",))
        asyncio.run(served.service.score("x", [question]))
