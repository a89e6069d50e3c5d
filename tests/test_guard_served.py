"""The guard behind HTTP: OpenAI's own client, plain HTTP, the log, feedback, and who is refused."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import httpx
import pytest
from typer.testing import CliRunner

from rlaif.annotate.publish import publish
from rlaif.api.inputs import engine_of
from rlaif.cli import app
from rlaif.config.models import ClientModel, LocalModel
from rlaif.errors import ConfigError, DataError, ModelError
from rlaif.feedback.human import read_human
from rlaif.formats import Annotations
from rlaif.jsonl import read_jsonl, read_objects
from rlaif.models.engine import ChatRequest, Reply
from rlaif.models.engine import ask as replies_of
from rlaif.models.open import open_model
from rlaif.models.scripted import ScriptedChatModel
from rlaif.records import Message
from rlaif.run_folder import Run
from rlaif.serve.guard.config import GuardSection, load_guard
from rlaif.serve.guard.decide import Guard
from rlaif.serve.guard.decision import Decision
from rlaif.testing import Request, completion, failed, fake_server, save_tiny
from tests.test_guard import CONSTITUTION, SCRIPTED, judge

pytest.importorskip("fastapi", reason="needs the extra `serve`")
uvicorn = pytest.importorskip("uvicorn", reason="needs the extra `serve`")

from rlaif.serve.access import Access  # noqa: E402
from rlaif.serve.guard.service import GuardService, open_guard, policy_of  # noqa: E402
from rlaif.serve.records import ServiceLog  # noqa: E402
from rlaif.serve.service import Limits  # noqa: E402

TOKEN = "t" * 43
BEARER = {"authorization": f"Bearer {TOKEN}"}


def policy(request: ChatRequest) -> str | Reply:
    """It says what it is told to."""
    said = request.messages[-1].content
    if said == "What were you asked?":
        return f"{request.max_tokens} {request.temperature} {request.top_p} {request.seed}"
    return Reply(error="out of memory") if said == "break" else said.removeprefix("Say: ")


class Served(NamedTuple):
    url: str
    run: Run

    def http(self, method: str, path: str, **more: Any) -> httpx.Response:
        with httpx.Client(base_url=self.url, trust_env=False) as client:
            return client.request(method, path, **more)

    def chat(self, text: str, **more: Any) -> httpx.Response:
        body = {"model": "helper", "messages": [{"role": "user", "content": text}], **more}
        return self.http("POST", "/v1/chat/completions", json=body)

    def feedback(self, headers: dict[str, str] = BEARER, **body: Any) -> httpx.Response:
        return self.http("POST", "/feedback", json=body, headers=headers)

    @property
    def log(self) -> list[Decision]:
        return read_jsonl(self.run.judgments, Decision)


@contextmanager
def serving(folder: Path, access: Access | None = None, engine: Any = None, **knobs: Any) -> Iterator[Served]:
    (folder / "desk.yaml").write_text(CONSTITUTION)
    section = GuardSection.model_validate({"constitution": str(folder / "desk.yaml"), "judge": SCRIPTED, **knobs})
    guard = Guard(section, engine or ScriptedChatModel(policy, "helper"), engine_of(judge))
    listening = socket.create_server(("127.0.0.1", 0))
    log = ServiceLog(folder / "service")
    service = GuardService(guard, "helper", log, Limits())
    config = uvicorn.Config(service.app(access or Access(), TOKEN), log_level="warning", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}", Run(folder / "service"))
    finally:
        server.should_exit = True
        thread.join()
        service.close()
        log.close()
        listening.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("guard")) as found:
        yield found


# ------------------------------------------------------------------------------------------------------- protocol


@pytest.fixture(scope="module")
def openai(served: Served) -> Iterator[Any]:
    found = pytest.importorskip("openai", reason="the client is a peer's")
    with found.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_openais_client_gets_its_answer(openai):
    assert [model.id for model in openai.models.list()] == ["helper"]
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Say: Good morning."}]
    reply = openai.chat.completions.create(model="helper", messages=turns, user="u1", tools=[], metadata={"a": "b"})
    (choice,) = reply.choices
    assert (choice.message.content, choice.finish_reason, choice.index) == ("Good morning.", "stop", 0)
    assert reply.id.startswith("chatcmpl-") and reply.usage.completion_tokens == 2
    assert reply.guard == {"action": "passed", "principle": None, "reason": ""}
    parts = [{"type": "text", "text": "Say: One"}, {"type": "text", "text": "two."}]
    reply = openai.chat.completions.create(model="helper", messages=[{"role": "user", "content": parts}])
    assert reply.choices[0].message.content == "One\ntwo."


def test_the_python_of_the_page_runs(served, openai, capsys):
    page = (Path(__file__).parents[1] / "docs" / "guard.md").read_text()
    (snippet,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(snippet.replace("http://127.0.0.1:8790", served.url).replace('"policy"', '"helper"'), names)
    names["client"].close()
    assert "What is rain?" in capsys.readouterr().out


def test_openais_client_reads_a_stream(openai):
    turns = [{"role": "user", "content": "Say: Good morning."}]
    chunks = list(
        openai.chat.completions.create(
            model="helper", messages=turns, stream=True, stream_options={"include_usage": True}
        )
    )
    assert [c.choices[0].delta.content for c in chunks if c.choices] == ["Good morning."]
    assert chunks[0].choices[0].finish_reason == "stop" and chunks[-1].usage.completion_tokens == 2


def test_a_refusal_is_an_answer_whose_end_says_so(openai):
    turns = [{"role": "user", "content": "Say: You fool."}]
    reply = openai.chat.completions.create(model="helper", messages=turns)
    assert reply.choices[0].message.content == "I can't help with that."
    assert (reply.choices[0].finish_reason, reply.guard["principle"]) == ("content_filter", "polite")


@pytest.mark.parametrize(
    ("text", "more", "status", "code"),
    [
        ("<|im_start|>", {}, 400, "input_refused"),
        ("break", {}, 503, "no_answer"),
        ("x", {"model": "other"}, 404, "model_not_found"),
        ("x", {"max_tokens": 5000}, 400, "input_refused"),
    ],
)
def test_openais_client_is_told_why_not(openai, text, more, status, code):
    import openai as package

    with pytest.raises(package.APIStatusError) as error:
        openai.chat.completions.create(**{"model": "helper", "messages": [{"role": "user", "content": text}]} | more)
    assert error.value.status_code == status and error.value.code == code
    assert error.value.body["message"]


@pytest.mark.parametrize(
    "more",
    [
        {"messages": "x"},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": "\ud800"}]},
        {"temperature": -1},
        {"temperature": 3},
        {"top_p": 0},
        {"n": 2},
        {"max_tokens": 0},
        {"seed": "x"},
    ],
)
def test_what_cannot_be_asked_is_refused_in_openais_shape(served, more):
    body = {"messages": [{"role": "user", "content": "Say: Hi."}], **more}
    reply = served.http(
        "POST", "/v1/chat/completions", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert reply.status_code in (400, 422), reply.text
    assert reply.json()["error"]["type"] == "invalid_request_error" and reply.json()["error"]["message"]


def test_what_the_engine_knows_is_passed_on(served):
    asked = {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "seed": 5}
    assert served.chat("What were you asked?", **asked).json()["choices"][0]["message"]["content"] == "9 0.5 0.9 5"
    asked = {"max_completion_tokens": 8, "seed": -1}
    found = served.chat("What were you asked?", **asked).json()["choices"][0]["message"]["content"]
    assert found == f"8 1.0 1.0 {2**63 - 1}"
    seeds = {served.chat("What were you asked?").json()["choices"][0]["message"]["content"] for _ in range(3)}
    assert len(seeds) == 3, "without a seed answers are drawn anew"


def test_every_decision_is_on_disk_with_its_principle(tmp_path):
    with serving(tmp_path) as served:
        told = {text: served.chat(text) for text in ("Say: Hi.", "Say: You fool.", "Say: I guarantee.", "", "break")}
        rows = served.log
    assert [(row.action, row.principle) for row in rows] == [
        ("passed", None),
        ("refused", "polite"),
        ("refused", "no-promises"),
        ("input_refused", "input.roles"),
        ("failed", None),
    ]
    assert [row.id for row in rows[:3]] == [reply.json()["id"] for reply in list(told.values())[:3]]
    assert rows[0].policy == "helper" and rows[1].candidates[0].text == "You fool." and rows[1].judge == "judge"
    with serving(tmp_path) as served:  # started again, it goes on
        served.chat("Say: Hi.")
        assert len(served.log) == 6


def test_what_cannot_be_recorded_is_not_answered(tmp_path, monkeypatch):
    with serving(tmp_path) as served:

        def full(self: Any, rows: Any) -> None:
            raise DataError("judgments.jsonl: not recorded, so not answered: No space left on device")

        monkeypatch.setattr(ServiceLog, "write", full)
        reply = served.chat("Say: Hi.")
        assert reply.status_code == 503 and "No space left" in reply.json()["error"]["message"]


def test_a_policy_that_cannot_be_reached_is_503(tmp_path):
    class Gone(ScriptedChatModel):
        def stream(self, requests):
            raise ModelError("policy: cannot be reached")

    with serving(tmp_path, engine=Gone(policy, "helper")) as served:
        reply = served.chat("Say: Hi.")
    assert reply.status_code == 503 and "cannot be reached" in reply.json()["error"]["message"]


def test_a_policy_behind_a_server_is_asked_by_its_name_and_many_at_once(tmp_path, monkeypatch):
    def answer(request: Request) -> Any:
        return completion(request.text.removeprefix("Say: "))

    (tmp_path / "desk.yaml").write_text(CONSTITUTION)
    section = GuardSection.model_validate({"constitution": str(tmp_path / "desk.yaml")})
    with fake_server(answer) as server, open_guard(section, policy_of(f"{server.url}#helper")) as (guard, workers):
        assert workers == 32
        with serving(tmp_path, engine=guard.policy) as served:
            assert served.chat("Say: Hi.").json()["choices"][0]["message"]["content"] == "Hi."
        assert server.asked()[-1].body["model"] == "helper"


VLLM = "This model's maximum context length is 512 tokens. However, you requested 9000 tokens."


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        (failed(400, VLLM), 400, "context_length_exceeded"),
        (failed(400, "prompt is too long: 208310 tokens > 200000 maximum"), 400, "context_length_exceeded"),
        (failed(413, "Payload"), 400, "context_length_exceeded"),
        (failed(400, "Only user and assistant roles are supported!"), 400, "input_refused"),
        (failed(422, "logits"), 400, "input_refused"),
        (failed(409, "no"), 503, "no_answer"),
        (failed(500, VLLM), 503, "no_answer"),
        (failed(429, "tokens per minute exceed the limit"), 503, "no_answer"),
    ],
)
def test_what_a_server_refuses_for_the_requests_own_sake_is_400(tmp_path, refusal, status, code):
    (tmp_path / "desk.yaml").write_text(CONSTITUTION)
    section = GuardSection.model_validate({"constitution": str(tmp_path / "desk.yaml")})
    with fake_server(lambda request: refusal) as server:
        model = ClientModel(model="helper", base_urls=(server.url,), max_tries=1)
        with open_guard(section, model) as (guard, _), serving(tmp_path, engine=guard.policy) as served:
            reply = served.chat("Say: Hi.")
            (row,) = served.log
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (status, code), error
    assert refusal.body["error"]["message"] in error["message"]
    assert error["type"] == ("invalid_request_error" if status == 400 else "server_error")
    assert row.principle == {400: f"policy.{'length' if code.startswith('context') else 'form'}"}.get(status)


def test_a_conversation_that_a_local_policy_does_not_read_is_400_and_costs_no_other(tmp_path):
    short, strict = save_tiny(tmp_path / "short", max_position_embeddings=64), tmp_path / "strict"
    save_tiny(strict)
    template = strict / "chat_template.jinja"
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    template.write_text(refusal + template.read_text())
    opened = contextlib.closing(open_model(LocalModel(model=short)))
    with opened as engine, serving(tmp_path, engine=engine, threshold=0.0) as served:
        long, asked = served.chat("x" * 100, max_tokens=8).json()["error"], served.chat("x", max_tokens=60)
    assert long["code"] == "context_length_exceeded" and long["param"] == "messages"
    assert re.search(r"prompt of 1\d\d tokens does not fit a context of 64", long["message"])
    assert asked.status_code == 400 and "tokens, with 60 to write, does not fit" in asked.json()["error"]["message"]
    with contextlib.closing(open_model(LocalModel(model=str(strict)))) as engine:
        request = ChatRequest(messages=(Message(role="user", content="Hi"),), max_tokens=2)
        system = request.model_copy(
            update={"messages": (Message(role="system", content="Be kind."), *request.messages)}
        )
        refused, answered = replies_of(engine, [system, request])
    assert refused.refused == "form" and "no system turn" in (refused.error or "") and answered.error is None


def test_what_guard_names(tmp_path):
    (tmp_path / "policy").mkdir()
    assert policy_of(str(tmp_path)) == LocalModel(model=str(tmp_path / "policy"))
    assert policy_of("smollm2-135m") == LocalModel(model="smollm2-135m")
    section = policy_of("{backend: client, model: x, base_urls: ['http://h/v1'], api_key_env: KEY}")
    assert (section.backend, section.api_key_env) == ("client", "KEY")
    for wrong in ("http://h/v1", "{backend: x}", "vlm:x"):
        with pytest.raises(ConfigError):
            policy_of(wrong)


# ------------------------------------------------------------------------------------------------------- feedback


def test_feedback_becomes_human_labels(tmp_path):
    with serving(tmp_path) as served:
        ids = [served.chat(f"Say: Answer {number}.").json()["id"] for number in range(3)]
        assert served.feedback(kind="edit", response_id=ids[0], edited="A better answer.", annotator="Ada").json()["id"]
        pair = {"kind": "pair", "response_id": ids[1], "other": "Another.", "choice": "other", "reason": "clearer"}
        assert served.feedback(**pair).status_code == 200
        question = {"kind": "thumbs", "prompt": "What is rain?"}
        for text, up in (("Water.", True), ("Nothing.", False)):
            assert served.feedback(**question, response=text, up=up, annotator="Bo").status_code == 200
        assert served.feedback(kind="thumbs", response_id=ids[2], up=True).status_code == 200
        publish(served.run)
        data = read_human([Annotations()], served.run)
    found = {
        (j.annotator, j.pair.a if j.p_a > 0.5 else j.pair.b, j.pair.a if j.p_a < 0.5 else j.pair.b)
        for j in data.judgments
    }
    assert found == {
        ("Ada", "A better answer.", "Answer 0."),
        ("user", "Another.", "Answer 1."),
        ("Bo", "Water.", "Nothing."),
    }
    assert [edit.edited for edit in data.edits] == ["A better answer."]
    assert data.counts["unpaired"] == 1 and data.counts["failed"] == 0
    assert all(judgment.pair.prompt[-1].content for judgment in data.judgments)


def test_feedback_that_is_sent_twice_counts_once_and_the_last_thumb_holds(tmp_path):
    with serving(tmp_path) as served:
        thumb = {"kind": "thumbs", "prompt": "What is rain?", "response": "Water.", "up": True}
        assert served.feedback(**thumb).json() == served.feedback(**thumb).json()
        for number in range(2):
            edit = {
                "kind": "edit",
                "prompt": "Why?",
                "response": "So.",
                "edited": f"Because {number}.",
                "id": "edit-0001",
            }
            assert served.feedback(**edit).json() == {"id": "edit-0001"}
        assert served.feedback(**thumb | {"up": False}).status_code == 200
        publish(served.run)
        assert [row["edited"] for _, row in read_objects(served.run.annotation_edits)] == ["Because 0."]
        assert [row["label"] for _, row in read_objects(served.run.annotation_thumbs)] == [False]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"kind": "thumbs", "response_id": "chatcmpl-0", "up": True}, 404),
        ({"kind": "thumb", "prompt": "a", "response": "b", "up": True}, 422),
        ({"kind": "thumbs", "prompt": "a", "response": "b", "up": 1}, 422),
        ({"kind": "thumbs", "prompt": "a", "up": True}, 422),
        ({"kind": "thumbs", "prompt": "a", "response": "b", "response_id": "c", "up": True}, 422),
        ({"kind": "thumbs", "prompt": "a", "response": " ", "up": True}, 422),
        ({"kind": "thumbs", "prompt": [], "response": "b", "up": True}, 422),
        ({"kind": "thumbs", "prompt": [{"role": "assistant", "content": "a"}], "response": "b", "up": True}, 422),
        ({"kind": "thumbs", "prompt": "a", "response": "b", "up": True, "down": False}, 422),
        ({"kind": "thumbs", "prompt": "a", "response": "b", "up": True, "annotator": ""}, 422),
        ({"kind": "thumbs", "prompt": "a", "response": "b", "up": True, "id": "short"}, 422),
        ({"kind": "edit", "prompt": "a", "response": "b", "edited": "b "}, 422),
        ({"kind": "edit", "prompt": "a", "response": "b", "edited": " "}, 422),
        ({"kind": "edit", "prompt": "a", "response": "b", "edited": "\ud800"}, 422),
        ({"kind": "pair", "prompt": "a", "response": "b", "other": "b", "choice": "tie"}, 422),
        ({"kind": "pair", "prompt": "a", "response": "b", "other": "c", "choice": "a"}, 422),
        ([], 422),
        (None, 422),
    ],
)
def test_bad_feedback_is_said_and_harms_nothing(served, body, status):
    reply = served.http("POST", "/feedback", content=json.dumps(body).replace("null", ""), headers=BEARER)
    assert reply.status_code == status and reply.json()["error"]["message"]
    assert publish(served.run).answers == 0 and not served.run.annotation_thumbs.exists()


@pytest.mark.parametrize("content", [b"", b"no json", b"[" * 200_000, b"\xff\xfe", b'{"kind": "thumbs", "kind": 1}'])
def test_a_body_that_is_no_json_harms_nothing(served, content):
    assert served.http("POST", "/feedback", content=content, headers=BEARER).status_code == 422
    assert served.feedback(kind="thumbs", response_id="chatcmpl-0", up=True).status_code == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": f"Basic {TOKEN}"}, 401),
        ({"authorization": TOKEN}, 401),
        ({"cookie": f"rlaif-annotate-8765={TOKEN}"}, 401),
        (BEARER | {"origin": "https://evil.example"}, 403),
        (BEARER | {"origin": "null"}, 403),
        (BEARER | {"host": "evil.example"}, 421),
    ],
)
def test_foreign_feedback_is_refused_and_writes_nothing(served, headers, status):
    body = {"kind": "thumbs", "prompt": "a", "response": "b", "up": True}
    assert served.feedback(headers, **body).status_code == status
    assert publish(served.run).answers == 0 and not served.run.annotation_thumbs.exists()


def test_a_body_that_is_too_long_is_refused(tmp_path):
    with serving(tmp_path, Access(None, 1000)) as served:
        assert served.feedback(kind="edit", prompt="a", response="b", edited="x" * 2000).status_code == 413
        assert served.chat("x" * 2000).status_code == 413


def test_a_token_for_all_is_one_for_feedback(tmp_path):
    with serving(tmp_path, Access(TOKEN)) as served:
        assert served.chat("Say: Hi.").status_code == 401
        body = {"kind": "thumbs", "prompt": "a", "response": "b", "up": True}
        assert served.feedback({}, **body).status_code == 401
        assert served.feedback(**body).status_code == 200
        assert served.http("POST", f"/key/{TOKEN}/feedback", json=body).status_code == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_feedback_is_posted(served, method):
    assert served.http(method, "/feedback", headers=BEARER).status_code == 405


def test_the_oldest_replies_go_and_what_people_said_stays(tmp_path, capsys):
    with serving(tmp_path, keep_replies=3) as served:
        ids = [served.chat(f"Say: Answer {number}.").json()["id"] for number in range(2)]
        assert served.feedback(kind="edit", response_id=ids[0], edited="Better.").status_code == 200
        ids += [served.chat(f"Say: Answer {number}.").json()["id"] for number in range(2, 6)]
        told = [served.feedback(kind="edit", response_id=one, edited="Best.").status_code for one in ids]
        assert told == [404] * 3 + [200] * 3
        assert "rlaif_replies_dropped_total 3.0" in served.http("GET", "/metrics").text
        assert len(served.log) == 6, "the log keeps them all"
    assert capsys.readouterr().out.count("1 of the oldest replies are no longer kept: keep_replies is 3") == 3
    with serving(tmp_path, keep_replies=1) as served:  # what a larger bound left behind goes at the start
        assert "rlaif_replies_dropped_total 2.0" in served.http("GET", "/metrics").text
        publish(served.run)
    assert len(list(read_objects(served.run.annotation_edits))) == 4


def test_what_was_asked_and_decided_is_counted(tmp_path):
    with serving(tmp_path) as served:
        for text in ("Say: Hi.", "Say: You fool.", "Say: You fool.", "Say: I guarantee.", "<|im_start|>", "break"):
            served.chat(text)
        served.feedback(kind="thumbs", response_id="chatcmpl-0", up=True)
        served.feedback(kind="thumbs", prompt="a", response="b", up=True)
        reply = served.http("GET", "/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = dict(line.rsplit(" ", 1) for line in reply.text.splitlines() if line[0] != "#" and "_created" not in line)
    decided = {
        name.removeprefix("rlaif_guard_decisions_total"): value for name, value in found.items() if "decisions" in name
    }
    assert decided == {
        '{action="passed",principle=""}': "1.0",
        '{action="refused",principle="polite"}': "2.0",
        '{action="refused",principle="no-promises"}': "1.0",
        '{action="input_refused",principle="input.markers"}': "1.0",
        '{action="failed",principle=""}': "1.0",
    }
    assert found['rlaif_requests_total{outcome="answered",protocol="chat"}'] == "6.0"
    assert found['rlaif_requests_total{outcome="answered",protocol="feedback"}'] == "1.0"
    assert found['rlaif_requests_total{outcome="refused",protocol="feedback"}'] == "1.0"
    assert found['rlaif_request_seconds_count{protocol="chat"}'] == "6.0" and found["rlaif_waiting"] == "0.0"
    with serving(tmp_path, Access(TOKEN)) as served:
        assert served.http("GET", "/metrics").status_code == 401


def test_feedback_may_be_off(tmp_path):
    with serving(tmp_path, feedback=False) as served:
        assert served.chat("Say: Hi.").status_code == 200
        assert served.feedback(kind="thumbs", prompt="a", response="b", up=True).status_code == 404
        assert not served.run.answers.exists()


# ------------------------------------------------------------------------------------------------------ the command


def test_the_command_serves_and_keeps_its_settings(tmp_path, tiny_folder, monkeypatch):
    def interrupted(self: Any, sockets: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("uvicorn.Server.run", interrupted)
    words = ["serve", "plain-and-brief", "--guard", tiny_folder, "--out", str(tmp_path / "desk"), "--port", "0"]
    done = CliRunner().invoke(app, [*words, "on_fail.kind=best_of_n"], catch_exceptions=False)
    assert done.exit_code == 0 and "principles that refuse nothing here: plain-words" in done.output
    (kept,) = (tmp_path / "desk").glob("guard-*.yaml")
    assert load_guard(str(kept)) == load_guard("plain-and-brief", ["on_fail.kind=best_of_n"])
    for wrong in (
        ["--run", "x"],
        ["--template", "x"],
        ["--mode", "compare"],
        ["--mode", "score"],
        ["--judge", "vlm:x"],
        ["refuse=no"],
    ):
        assert isinstance(CliRunner().invoke(app, [*words, *wrong]).exception, ConfigError), wrong
