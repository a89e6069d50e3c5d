"""Who may ask the service, what it takes, who has gone; and the records, which no kill and no full disk harm."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from rlaif.errors import ConfigError
from rlaif.records import Message, Record
from rlaif.serve.access import Access
from rlaif.serve.records import NotRecorded, ServiceLog
from rlaif.serve.server import Address, access_of, listen
from tests.served import Lengths, serving

pytest.importorskip("fastapi", reason="needs the extra `serve`")
pytest.importorskip("prometheus_client", reason="needs the extra `serve`")

TOKEN = "t" * 43
ASKED = {"prompt": "p", "response": "abc"}
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": f"Bearer {TOKEN}"}, 200),
        ({"authorization": f"bearer  {TOKEN}"}, 200),
        ({"authorization": f"Basic {TOKEN}"}, 401),
        ({"authorization": TOKEN}, 401),
        ({"authorization": f"Bearer {TOKEN}x"}, 401),
        ({"authorization": "Bearer é".encode("latin-1").decode("latin-1")}, 401),
        ({"authorization": f"Bearer {TOKEN}", "host": "node7.cluster:8790"}, 200),
        ({"authorization": f"Bearer {TOKEN}", "origin": "http://127.0.0.1:8790"}, 403),
        ({"authorization": f"Bearer {TOKEN}", "sec-fetch-site": "cross-site"}, 403),
    ],
    ids=str,
)
def test_with_a_token_only_who_knows_it_is_answered(headers: dict[str, str], status: int, tmp_path: Path) -> None:
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    with serving(Lengths(), tmp_path, access=Access(TOKEN)) as served:
        assert served.post("/slime", ASKED, headers=raw).status_code == status
        assert len(served.rows()) == (status == 200)


@pytest.mark.parametrize(
    "path", ["/score", "/judge", "/metrics", "/v1/models", "/docs", "/openapi.json", "/", "/nothing"]
)
def test_without_the_token_nothing_but_health_is_said(path: str, tmp_path: Path) -> None:
    with serving(Lengths(), tmp_path, access=Access(TOKEN)) as served:
        for reply in (served.get(path), served.post(path, ASKED)):
            assert reply.status_code == 401 and reply.headers["www-authenticate"] == "Bearer"
        assert served.get("/health").status_code == 200


def test_a_trainer_that_is_given_a_url_alone_has_the_token_in_it(tmp_path: Path) -> None:
    with serving(Lengths(), tmp_path, access=Access(TOKEN)) as served:
        assert served.post(f"/key/{TOKEN}/slime", ASKED).json() == 3.0
        assert served.get(f"/key/{TOKEN}/v1/models").status_code == 200
        for path in ("/key/wrong/slime", "/key//slime", f"/key/{TOKEN}", f"/key/{TOKEN}x/slime", "/key/"):
            assert served.post(path, ASKED).status_code in (401, 404), path
        assert len(served.rows()) == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8790"}, 200),
        ({"host": "localhost"}, 200),
        ({"host": "[::1]:8790"}, 200),
        ({"host": "evil.example:8790"}, 421),
        ({"host": "127.0.0.1.evil.example"}, 421),
        ({"host": ""}, 421),
        ({"origin": "http://127.0.0.1:8790"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"content-type": "text/plain"}, 422),
    ],
    ids=str,
)
def test_without_a_token_only_this_machines_programs_are_answered(
    headers: dict[str, str], status: int, tmp_path: Path
) -> None:
    with serving(Lengths(), tmp_path) as served:
        assert served.post("/slime", ASKED, headers=headers).status_code == status
        assert len(served.rows()) == (status == 200)


def test_a_body_that_is_too_large_is_refused_whatever_it_says_of_itself(tmp_path: Path) -> None:
    large = json.dumps({"prompt": "p", "response": "a" * 2000})

    async def chunks(client: httpx.AsyncClient) -> httpx.Response:
        async def parts() -> Any:
            for place in range(0, len(large), 100):
                yield large[place : place + 100].encode()

        return await client.post("/slime", content=parts(), headers={"content-type": "application/json"})

    with serving(Lengths(), tmp_path, access=Access(largest_body=1000)) as served:
        assert served.post("/slime", {"prompt": "p", "response": "a" * 2000}).status_code == 413
        assert served.together(chunks).status_code == 413
        assert served.post("/slime", ASKED).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"[" * 100_000, b'{"prompt":"\\ud800"}'])
def test_a_body_that_is_none_is_the_requests_fault(body: bytes, tmp_path: Path) -> None:
    with serving(Lengths(), tmp_path) as served:
        for path in ("/score", "/get_reward", "/verify", "/compare"):
            reply = served.together(
                lambda client, path=path: client.post(path, content=body, headers={"content-type": "application/json"})
            )
            assert 400 <= reply.status_code < 500, (path, reply.text)
        assert served.rows() == []


def test_half_a_surrogate_pair_is_no_text(tmp_path: Path) -> None:
    with serving(Lengths(), tmp_path) as served:
        for body in ('{"prompt":"p","response":"\\ud800"}', '{"prompt":"\\udfff","response":"r"}'):
            reply = served.together(
                lambda client, body=body: client.post(
                    "/slime", content=body.encode(), headers={"content-type": "application/json"}
                )
            )
            assert reply.status_code == 422, reply.text
        assert served.rows() == []


def test_the_question_of_a_client_that_has_gone_is_dropped(tmp_path: Path) -> None:
    """The first is in work; the second leaves while it waits; the third is answered."""
    hold, target = threading.Event(), Lengths()

    def held(questions: Any) -> Any:
        hold.wait(10)
        return Lengths.score(target, questions)

    target.score = held  # type: ignore[method-assign]

    async def asked(app: Any, text: str, gone: asyncio.Event) -> list[int]:
        body = json.dumps({"prompt": "p", "response": text}).encode()
        sent = [{"type": "http.request", "body": body, "more_body": False}]
        statuses: list[int] = []

        async def receive() -> dict[str, Any]:
            if sent:
                return sent.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            statuses.extend([message["status"]] if "status" in message else [])

        headers = [(b"host", b"127.0.0.1:8790"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/slime", "raw_path": b"/slime", "query_string": b""}
        await app({**scope, "headers": headers, "http_version": "1.1", "scheme": "http"}, receive, send)
        return statuses

    async def all_of_them(app: Any, waiting: Any) -> list[list[int]]:
        stays, leaves = asyncio.Event(), asyncio.Event()
        tasks = [asyncio.ensure_future(asked(app, "a", stays))]
        tasks += [asyncio.ensure_future(asked(app, text, gone)) for text, gone in (("bb", leaves), ("ccc", stays))]
        for _ in range(10_000):
            if waiting() == 2:
                break
            await asyncio.sleep(0)
        leaves.set()
        gone = await tasks[1]
        hold.set()
        return [await tasks[0], gone, await tasks[2]]

    with serving(target, tmp_path) as served:
        statuses = asyncio.run(all_of_them(served.app, lambda: served.service._scores.waiting))
        assert statuses == [[200], [], [200]]
        assert [row["text"] for row in served.rows()] == ["a", "ccc"]
    assert target.batches == [["a"], ["ccc"]]


# ---------------------------------------------------------------------------------------------------- the records


def row(number: int) -> Record:
    return Message(role="user", content=str(number))


def numbers(folder: Path) -> list[int]:
    files = [*sorted(folder.glob("judgments-*.jsonl")), folder / "judgments.jsonl"]
    return [int(json.loads(line)["content"]) for file in files for line in file.read_text().splitlines()]


def test_full_files_are_numbered_and_none_is_lost(tmp_path: Path) -> None:
    log = ServiceLog(tmp_path, largest=100)
    for number in range(7):
        log.write([row(number)])
    log.close()
    again = ServiceLog(tmp_path, largest=100)
    again.write([row(7), row(8), row(9)])
    again.write([])
    again.write([row(10)])
    again.close()
    assert numbers(tmp_path) == list(range(11))
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.glob("judgments*"))  # it holds what people wrote
    assert len(list(tmp_path.glob("judgments-*.jsonl"))) == 2


@pytest.mark.parametrize("torn", [b'{"half', b"\xff", b'{"a": 1}', b"x" * 200_000])
def test_what_a_kill_left_half_written_is_cut_off(torn: bytes, tmp_path: Path) -> None:
    log = ServiceLog(tmp_path)
    log.write([row(0), row(1)])
    log.close()
    with (tmp_path / "judgments.jsonl").open("ab") as file:
        file.write(torn)
    again = ServiceLog(tmp_path)
    again.write([row(2)])
    again.close()
    assert numbers(tmp_path) == [0, 1, 2]


def test_a_write_that_the_disk_takes_half_of_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, write = ServiceLog(tmp_path), os.write
    log.write([row(0)])
    monkeypatch.setattr("os.write", lambda file, data: write(file, data[:10]))
    with pytest.raises(NotRecorded, match="not answered"):
        log.write([row(1)])
    monkeypatch.undo()
    log.write([row(2)])
    log.close()
    assert numbers(tmp_path) == [0, 2]


def test_one_process_at_a_time_and_no_link_is_followed(tmp_path: Path) -> None:
    log = ServiceLog(tmp_path / "one")
    with pytest.raises(ConfigError, match="another process serves"):
        ServiceLog(tmp_path / "one")
    log.close()
    log.close()
    ServiceLog(tmp_path / "one").close()
    (tmp_path / "two").mkdir()
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "two" / "judgments.jsonl").symlink_to(tmp_path / "precious")
    with pytest.raises(ConfigError, match="cannot be a service's folder"):
        ServiceLog(tmp_path / "two")
    assert (tmp_path / "precious").read_text() == "kept"
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be a service's folder"):
        ServiceLog(tmp_path / "file")


# ------------------------------------------------------------------------------------------------- where it listens


def test_beyond_this_machine_a_token_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert access_of(Address(), tmp_path).token is None
    made = access_of(Address("0.0.0.0"), tmp_path).token
    assert made and access_of(Address("0.0.0.0"), tmp_path).token == made
    assert (tmp_path / ".token").stat().st_mode & 0o077 == 0
    monkeypatch.setenv("OURS", "secret ")
    assert access_of(Address(token_env="OURS"), tmp_path).token == "secret"
    for name, value in (("OURS", " "), ("THEIRS", None)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError, match=f"--token-env {name}"):
            access_of(Address(token_env=name), tmp_path)


def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for address in (Address(port=taken.getsockname()[1]), Address("no.such.host.invalid"), Address("256.1.1.1")):
            with pytest.raises(ConfigError, match="cannot listen") as refused:
                listen(address)
            assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_a_killed_service_has_every_answer_that_it_gave_on_disk(tmp_path: Path) -> None:
    """`kill -9` between requests of many clients, twice; then Ctrl-C."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "rlaif", "serve", "quickstart", "optimise.scoring={kind: checks}"]
    command += ["--port", str(port), "--out", str(tmp_path / "service")]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    answered: list[str] = []

    def ask(text: str) -> bool:
        try:
            reply = httpx.post(f"http://127.0.0.1:{port}/slime", json={"prompt": "p", "response": text}, timeout=20)
        except httpx.HTTPError:
            return False
        if reply.status_code == 200:
            answered.append(text)
        return True

    for turn, end in enumerate((signal.SIGKILL, signal.SIGKILL, signal.SIGINT)):
        with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert any("listening on" in line for line in process.stdout)
            threads = [
                threading.Thread(target=lambda n=n, turn=turn: [ask(f"{turn} {n} {k}.") for k in range(10)])
                for n in range(4)
            ]
            for thread in threads:
                thread.start()
            if end == signal.SIGINT:
                for thread in threads:
                    thread.join()
            else:
                while len(answered) < 10 * (turn + 1):
                    assert process.poll() is None
            process.send_signal(end)
            process.wait(30)
            for thread in threads:
                thread.join()
            assert process.returncode == (0 if end == signal.SIGINT else -9)
    rows = [json.loads(line)["text"] for line in (tmp_path / "service" / "judgments.jsonl").read_text().splitlines()]
    assert set(answered) <= set(rows) and len(answered) >= 60
