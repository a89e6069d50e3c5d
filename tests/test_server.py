"""Our own server process: waited for, told apart from one that fails, and never left behind."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import pytest
from tenacity import wait_none

from rlaif.config.models import ClientModel, VllmModel
from rlaif.errors import ModelError
from rlaif.models import process, server
from rlaif.models.client import HttpChatModel
from rlaif.models.embedded import ResolvedModel
from rlaif.models.engine import ChatRequest, Reply
from rlaif.models.engine import ask as replies_of
from rlaif.models.files import named_files
from rlaif.models.process import ServerProcess
from rlaif.models.server import VllmChatModel, vllm_command, vllm_environment
from rlaif.records import Message
from rlaif.testing import CHAT_TEMPLATE, HttpAnswer, fake_server, tiny_tokenizer
from tests.tiers import some

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches processes by pidfd, which is Linux's")

# A server with a worker, as vLLM has: it writes both process ids, then serves 200 to every GET. With "stubborn"
# neither heeds SIGTERM.
SERVER = """
import http.server, os, signal, subprocess, sys
port, pids, manner = int(sys.argv[1]), sys.argv[2], sys.argv[3]
if manner == "broken":
    print("loading weights"); sys.exit("ValueError: no such dtype")
if manner == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
worker = subprocess.Popen(["sleep", "600"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if manner == "slow" else 200); self.end_headers()
    def log_message(self, *_): pass
httpd = http.server.HTTPServer(("127.0.0.1", port), Handler)
with open(pids + ".part", "w") as file: file.write(f"{os.getpid()} {worker.pid}")
os.replace(pids + ".part", pids)
httpd.serve_forever()
"""

PARENT = """
import os, signal, sys, time
from rlaif.models.process import ServerProcess
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would we
url, end, *command = sys.argv[1:]
server = ServerProcess(command, os.environ, "fake")
server.wait_until_healthy(url, 600)
print(f"ready {server.log}", flush=True)
if end == "exception": raise KeyError("a bug")
if end == "wait": time.sleep(600)
"""


class Fake:
    """The fake server's command line, and whether its processes live."""

    def __init__(self, folder: Path) -> None:
        self.port = server._free_port()
        self.url = f"http://127.0.0.1:{self.port}/health"
        self.pids_file = folder / "pids"

    def command(self, manner: str = "plain") -> list[str]:
        return [sys.executable, "-c", SERVER, str(self.port), str(self.pids_file), manner]

    def watch(self) -> list[int]:
        """A file descriptor for each of its processes, readable when the process is gone."""
        return [os.pidfd_open(int(pid)) for pid in self.pids_file.read_text().split()]


def all_gone(watched: list[int], timeout_s: float = 300) -> bool:
    """Wait until every watched process has ended."""
    try:
        return all(select.select([descriptor], [], [], timeout_s)[0] for descriptor in watched)
    finally:
        for descriptor in watched:
            os.close(descriptor)


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path)


@pytest.fixture(autouse=True)
def logs_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(process.tempfile, "tempdir", str(tmp_path))
    yield


@pytest.fixture(autouse=True)
def a_hub_that_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlaif.models.embedded._hub_commit", lambda name, revision: revision)


def test_it_is_ready_when_healthy_and_gone_after_stop(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    running = ServerProcess(fake.command(), os.environ, "fake")
    running.wait_until_healthy(fake.url, 600)
    assert "fake is ready after" in capsys.readouterr().err
    watched = fake.watch()
    assert running.exit_status() is None
    running.stop()
    assert all_gone(watched, timeout_s=0)
    assert running.exit_status() is not None
    running.stop()


def test_one_that_fails_says_its_last_words(fake: Fake) -> None:
    running = ServerProcess(fake.command("broken"), os.environ, "fake")
    with pytest.raises(ModelError, match=r"fake did not start \(exit status 1\)") as caught:
        running.wait_until_healthy(fake.url, 600)
    assert "ValueError: no such dtype" in str(caught.value)
    assert str(running.log) in str(caught.value)


def test_one_that_is_never_ready_is_stopped(fake: Fake) -> None:
    running = ServerProcess(fake.command("slow"), os.environ, "fake")
    while not fake.pids_file.exists():
        assert running.exit_status() is None
    watched = fake.watch()
    with pytest.raises(ModelError, match=r"was not ready after 0\.01 s"):
        running.wait_until_healthy(fake.url, 0.01)
    assert all_gone(watched, timeout_s=0)


@pytest.mark.slow
def test_one_that_ignores_sigterm_is_killed(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE_S", 0.2)
    running = ServerProcess(fake.command("stubborn"), os.environ, "fake")
    running.wait_until_healthy(fake.url, 600)
    watched = fake.watch()
    running.stop()
    assert all_gone(watched, timeout_s=0)


def test_its_worker_goes_when_the_server_crashes(fake: Fake) -> None:
    running = ServerProcess(fake.command(), os.environ, "fake")
    running.wait_until_healthy(fake.url, 600)
    watched = fake.watch()
    os.kill(int(fake.pids_file.read_text().split()[0]), signal.SIGKILL)
    assert all_gone(watched)
    running.stop()


@some(
    ("end", "signal_number"),
    [("exit", None), ("wait", signal.SIGKILL)],
    [("exception", None), ("wait", signal.SIGTERM), ("wait", signal.SIGINT)],
)
def test_nothing_is_left_however_this_process_ends(fake: Fake, end: str, signal_number: int | None) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, fake.url, end, *fake.command()],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"TMPDIR": str(fake.pids_file.parent)},
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline().startswith("ready")
        watched = fake.watch()
        if signal_number is not None:
            assert not any(select.select([one], [], [], 0)[0] for one in watched), "they live before the signal"
            parent.send_signal(signal_number)
    # Where Python still runs at the end it waits for the server: the memory is free when the command returns.
    assert all_gone(watched, timeout_s=300 if signal_number in (signal.SIGTERM, signal.SIGKILL) else 0)


# ------------------------------------------------------------------------------------------- vLLM's own

HERE = ResolvedModel(str(Path(__file__).parent), "abc")
HUB = ResolvedModel("org/model", "main")


def test_the_command_line_says_what_the_recipe_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "runs_on_cpu", lambda: False)
    config = VllmModel(model="org/model", dtype="float32", max_model_len=512, arguments=("--seed", "3"))
    line = " ".join(vllm_command(config, HUB, 8123))
    assert "--model org/model --served-model-name org/model --revision main" in line
    assert "--dtype float32 --max-model-len 512 --generation-config vllm" in line
    assert "--port 8123" in line and line.endswith("--seed 3")
    assert "--enforce-eager" not in line
    assert "--revision" not in vllm_command(config, HERE, 8123)


def test_the_environment_is_ours_and_what_vllm_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "runs_on_cpu", lambda: True)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    assert vllm_environment(HERE)["HF_HUB_OFFLINE"] == "1"
    assert vllm_environment(HERE)["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert "HF_HUB_OFFLINE" not in vllm_environment(HUB)
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
    assert vllm_environment(HERE)["VLLM_CPU_KVCACHE_SPACE"] == "7"
    assert "--enforce-eager --block-size 32" in " ".join(vllm_command(VllmModel(model="m"), HERE, 1))


def test_without_vllm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = server.importlib.util.find_spec
    monkeypatch.setattr(server.importlib.util, "find_spec", lambda name: None if name == "vllm" else find(name))
    with pytest.raises(ModelError, match=re.escape('pip install "rlaif[vllm]"')):
        VllmChatModel(VllmModel(model="org/model"))


ARGUMENTS = (
    ("--chat-template", "{}"),
    ("--chat-template={}",),
    ("--lora-modules", "mine={}"),
    ("--lora-modules", '{{"name": "mine", "path": "{}"}}'),
    ("--speculative-config", '{{"model":"{}","num_speculative_tokens":2}}'),
)


@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("folder", [False, True])
def test_a_file_that_its_arguments_name_belongs_to_the_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], folder: bool
) -> None:
    monkeypatch.setattr(server, "require_vllm", lambda: None)
    file = tmp_path / "named" / "file.jinja"
    named = file.parent if folder else file
    config = VllmModel(
        model="org/model", revision="v1", dtype="float32", arguments=tuple(a.format(named) for a in arguments)
    )

    def revision(text: str) -> str:
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return VllmChatModel(config).revision

    assert revision("one") == revision("one") != revision("two")
    assert named_files(config.arguments) == [named]


def test_the_server_prints_no_date_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Local and served read the same prompt on any day; a template that prints none is the server's to find."""
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    assert server._on_a_fixed_day(VllmModel(model=str(folder))) == ()
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}" + CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    flag, file = server._on_a_fixed_day(VllmModel(model=str(folder)))
    assert flag == "--chat-template"
    turns = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(turns, chat_template=Path(file).read_text(), tokenize=False).startswith(
        "26 Jul 2024<|im_start|>user"
    )
    assert server._on_a_fixed_day(VllmModel(model="org/no-such-model")) == ()


def test_the_server_starts_with_the_first_request(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "require_vllm", lambda: None)
    monkeypatch.setattr(server, "_free_port", lambda: fake.port)
    monkeypatch.setattr(server, "vllm_command", lambda *_: fake.command())
    model = VllmChatModel(VllmModel(model="org/model", revision="v1", dtype="float32"))
    assert (model.name, model.revision) == ("org/model", "v1-float32")
    assert replies_of(model, []) == []
    assert not fake.pids_file.exists()
    request = ChatRequest(messages=(Message(role="user", content="hi"),))
    assert "HTTP 501" in str(replies_of(model, [request])[0].error), "the fake serves no POST"
    watched = fake.watch()
    model.close()
    assert all_gone(watched, timeout_s=0)
    model.close()


def test_a_server_that_died_is_named_as_the_cause(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "require_vllm", lambda: None)
    monkeypatch.setattr(server, "_free_port", lambda: fake.port)
    monkeypatch.setattr(server, "vllm_command", lambda *_: fake.command())
    monkeypatch.setattr(server, "HttpChatModel", partial(HttpChatModel, backoff=wait_none()))
    model = VllmChatModel(VllmModel(model="org/model"))
    request = ChatRequest(messages=(Message(role="user", content="hi"),))
    replies_of(model, [request])
    watched = fake.watch()
    os.kill(int(fake.pids_file.read_text().split()[0]), signal.SIGKILL)
    assert all_gone(watched)
    with pytest.raises(ModelError, match=r"the vLLM server stopped \(exit status"):
        replies_of(model, [request])
    model.close()


@pytest.mark.parametrize(
    ("answer", "begins_inside"),
    [
        ({"tokens": [1, 2, 3], "token_strs": ["assistant", "\u010a", "<think>", "\u010a"]}, True),
        ({"tokens": [1, 2, 3], "token_strs": ["assistant", "\u010a"]}, None),
        ({"tokens": [1, 2, 3], "token_strs": None}, None),
        ([], None),
        (b"<html>", None),
    ],
)
def test_a_server_tells_whether_its_template_opens_the_reasoning(answer: Any, begins_inside: bool | None) -> None:
    with fake_server(lambda _: HttpAnswer(body=answer)) as running:
        config = ClientModel(model="m", base_urls=(running.url,), thinking=False)
        assert server._begins_inside(running.url, config) is begins_inside
    assert running.seen[0].path == "/tokenize"
    assert running.seen[0].body["chat_template_kwargs"] == {"enable_thinking": False, "thinking": False}


def test_however_many_threads_ask_first_one_server_is_started_and_a_dead_one_again(
    tiny_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "require_vllm", lambda: None)
    model = VllmChatModel(VllmModel(model=tiny_folder, dtype="float32"))
    started, gate = [], Barrier(4)

    class Client:
        def lots(self, requests: Any) -> Iterator[Any]:
            if len(started) == 1:
                raise ModelError("nobody answers")
            yield [(0, Reply(text="again"))]

    class Process:
        log = Path(os.devnull)

        def exit_status(self, patience_s: float = 0) -> str:
            return "exit status 1"

        def last_words(self) -> str:
            return "killed"

        def stop(self) -> None:
            """It has gone."""

    def start() -> Any:
        started.append(1)
        Event().wait(0.1)  # time for the others to come as far, if nothing keeps them
        return Client(), Process()

    monkeypatch.setattr(model, "_start", start)

    def ask_first() -> Any:
        gate.wait(10)
        return model.start()[1]

    with ThreadPoolExecutor(4) as threads:
        processes = [asked.result() for asked in [threads.submit(ask_first) for _ in range(4)]]
    assert len(started) == 1 and len(set(map(id, processes))) == 1
    question = [ChatRequest(messages=(Message(role="user", content="Hi"),))]
    with pytest.raises(ModelError, match="the vLLM server stopped"):
        replies_of(model, question)
    (reply,) = replies_of(model, question)
    assert reply.text == "again" and len(started) == 2
