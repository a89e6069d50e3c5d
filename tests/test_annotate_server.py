"""The annotation server without a browser: who is served, who is refused, and what every reply carries."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from typing import Any

import httpx
import pytest

from rlaif.annotate.app import make_app
from rlaif.annotate.desk import Desk, Questions
from rlaif.annotate.guard import CSP, MAX_BODY, derived, run_token
from rlaif.annotate.store import AnswerStore
from tests.annotated import given, pair, pairs

pytest.importorskip("fastapi", reason="needs the extra `annotate`")

TOKEN = "t" * 43
HOME = "http://127.0.0.1:8765"
COOKIE = {"cookie": f"other=1; broken; rlaif-annotate-8765={TOKEN}"}
WRITES = {**COOKIE, "origin": HOME, "x-annotate": derived(TOKEN, "csrf"), "content-type": "application/json"}


class Client:
    def __init__(self, app):
        self._app = app

    def __call__(self, method: str, url: str, **more: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url=HOME) as client:
                return await client.request(method, url, **more)

        return asyncio.run(ask())


@pytest.fixture
def store(tmp_path):
    opened = AnswerStore(tmp_path / "answers.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def client(store):
    asked = Questions((pair("<script>boom()</script>", "Good.", "<img src=x onerror=boom()>"), *pairs(3)), (), ())
    return Client(make_app(Desk(store, asked), "a run", TOKEN, 8765))


def test_the_printed_address_becomes_a_cookie_and_leaves_the_address_bar(client):
    reply = client("GET", f"/?token={TOKEN}")
    assert (reply.status_code, reply.headers["location"], reply.content) == (303, "/", b"")
    cookie = reply.headers["set-cookie"]
    assert cookie.startswith(f"rlaif-annotate-8765={TOKEN}; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    page = client("GET", "/", headers=COOKIE)
    assert page.status_code == 200 and b"Which response is better?" in page.content


@pytest.mark.parametrize("path", ["/", "/main.js", "/page.css", "/api/session", "/docs", "/openapi.json"])
@pytest.mark.parametrize(
    "cookie",
    [None, "rlaif-annotate-8765=", "rlaif-annotate-8765=wrong", f"rlaif-annotate-8766={TOKEN}", f"{TOKEN}", "é=é"],
)
def test_without_the_token_nothing_is_served(client, path, cookie):
    headers = [("cookie", cookie.encode())] if cookie else []
    reply = client("GET", path, headers=headers)
    assert reply.status_code == 403 and "the whole address" in reply.text
    assert "set-cookie" not in reply.headers


@pytest.mark.parametrize(
    "query",
    ["token=", "token=wrong", f"token={TOKEN}&token={TOKEN}", f"Token={TOKEN}", f"token={TOKEN}x", "token=%C3%A9"],
)
def test_a_wrong_token_sets_no_cookie(client, query):
    reply = client("GET", f"/?{query}")
    assert reply.status_code == 403 and "set-cookie" not in reply.headers


@pytest.mark.parametrize("host", ["evil.example:8765", "127.0.0.1", "127.0.0.1:80", "evil.example", ""])
def test_another_host_is_refused_even_with_the_token(client, host):
    for path in ("/", f"/?token={TOKEN}", "/api/session"):
        assert client("GET", path, headers={**COOKIE, "host": host}).status_code == 421


def test_localhost_is_this_server_too(client):
    assert client("GET", "/api/session", headers={**COOKIE, "host": "localhost:8765"}).status_code == 200


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:8765"}, 403),
        ({"origin": None}, 403),
        ({"x-annotate": None}, 403),
        ({"x-annotate": TOKEN}, 403),
        ({"cookie": None}, 403),
        ({"content-length": str(MAX_BODY + 1)}, 413),
        ({"content-length": "9" * 5000}, 413),
        ({"content-length": "1e9"}, 400),
    ],
    ids=str,
)
def test_a_foreign_write_is_refused_and_writes_nothing(client, store, change, status):
    body = given(pairs(1)[0]).model_dump_json()
    headers = {name: value for name, value in {**WRITES, **change}.items() if value is not None}
    assert client("POST", "/api/answers", headers=headers, content=body).status_code == status
    assert store.standing() == []
    assert client("POST", "/api/answers", headers=WRITES, content=body).status_code == 200
    assert len(store.standing()) == 1


@pytest.mark.parametrize("length", [None, "2"], ids=["in chunks", "of a smaller length, it says"])
def test_a_body_is_counted_however_it_is_sent(client, store, length):
    sent = []

    async def chunks(data: bytes):
        for begin in range(0, len(data), 1 << 16):
            sent.append(begin)
            yield data[begin : begin + (1 << 16)]

    headers = WRITES | ({"content-length": length} if length else {})
    reply = client("POST", "/api/answers", headers=headers, content=chunks(b" " * (2 * MAX_BODY)))
    assert (reply.status_code, store.standing()) == (413, [])
    assert len(sent) <= MAX_BODY // (1 << 16) + 1, "the rest is not even taken"
    body = given(pairs(1)[0]).model_dump_json().encode()
    assert client("POST", "/api/answers", headers=WRITES, content=chunks(body)).status_code == 200
    assert len(store.standing()) == 1


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_refused(client, method):
    assert client(method, "/api/answers", headers=WRITES).status_code == 405


@pytest.mark.parametrize("path", ["/", "/main.js", "/api/session", "/nothing", "/../guard.py", "/%2e%2e/guard.py"])
@pytest.mark.parametrize("headers", [{}, COOKIE], ids=["stranger", "annotator"])
def test_every_reply_binds_the_page(client, path, headers):
    reply = client("GET", path, headers=headers)
    assert reply.headers["content-security-policy"] == CSP
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["x-frame-options"] == "DENY"
    assert b"hmac" not in reply.content
    assert "access-control-allow-origin" not in reply.headers


def test_the_policy_allows_no_inline_script_and_nothing_from_elsewhere(client):
    rules = dict(rule.split(" ", 1) for rule in CSP.split("; "))
    assert rules["default-src"] == "'none'" and "unsafe" not in CSP and "http" not in CSP
    assert {rules[name] for name in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
    assert {rules[name] for name in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}
    page = client("GET", "/", headers=COOKIE).text
    assert page.count("<script") == 1 and '<script type="module" src="main.js"></script>' in page
    assert "style=" not in page and " on" + "click" not in page


def test_scripts_never_make_markup_of_text(client):
    for name in ("main.js", "view.js", "look.js", "outbox.js", "server.js"):
        source = client("GET", f"/{name}", headers=COOKIE)
        assert "javascript" in source.headers["content-type"]
        for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
            assert sink not in source.text, f"{name}: {sink}"


def test_texts_go_out_as_json(client):
    reply = client("POST", "/api/work", headers=WRITES, json={"annotator": "Ada"})
    assert reply.headers["content-type"] == "application/json"
    item = reply.json()["items"][0]
    assert item["prompt"] == [{"role": "user", "content": "<script>boom()</script>"}]
    assert {item["a"], item["b"]} == {"Good.", "<img src=x onerror=boom()>"}


def test_a_session_tells_names_and_what_writes_must_repeat_but_not_the_token(client):
    client("POST", "/api/answers", headers=WRITES, content=given(pairs(1)[0], "Zoë").model_dump_json())
    session = client("GET", "/api/session", headers=COOKIE)
    assert session.json()["annotators"] == ["Zoë"] and session.json()["title"] == "a run"
    assert session.json()["csrf"] == {"header": "x-annotate", "token": WRITES["x-annotate"]}
    assert TOKEN not in session.text


def test_an_answer_and_its_undo_may_be_sent_twice(client, store):
    answer = given(pairs(1)[0])
    for _ in range(2):
        work = client("POST", "/api/answers", headers=WRITES, content=answer.model_dump_json()).json()
        assert (work["done"], work["last"]) == (1, answer.id)
    for _ in range(2):
        undo = {"annotator": "Ada", "answer_id": answer.id}
        work = client("POST", "/api/undo", headers=WRITES, json=undo).json()
        assert (work["done"], work["last"], work["items"][0]["pair_id"]) == (0, None, answer.pair_id)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"[]",
        b'{"annotator": "\\ud800"}',
        b"[" * 200_000,
        b'{"annotator": ""}',
        b"\xff\xfe",
        json.dumps({"x": 1}).encode(),
    ],
)
def test_a_bad_body_is_said_and_harms_nothing(client, body):
    assert client("POST", "/api/work", headers=WRITES, content=body).status_code in (400, 422)
    assert client("POST", "/api/work", headers=WRITES, json={"annotator": "Ada"}).status_code == 200


def test_what_cannot_be_kept_is_refused_so_that_the_page_sends_it_again(client, store, capsys):
    unknown = given(pair("Never asked?")).model_dump_json()
    assert client("POST", "/api/answers", headers=WRITES, content=unknown).status_code == 503
    assert "not saved" in capsys.readouterr().out


def test_the_token_lies_in_a_file_that_only_its_owner_reads_and_stays(tmp_path):
    path = tmp_path / ".annotate-token"
    token = run_token(path)
    assert len(token) >= 43 and stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    assert run_token(path) == token and stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("short")
    assert len(run_token(path)) >= 43
    path.unlink()
    assert run_token(path) != token
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a regular file"):
        run_token(path)
