"""A model hub on this machine: as much of its HTTP interface as finding a model, making a repository and uploading a
folder takes.

What is committed lies on disk as the real hub would serve it, so that a test reads it back. Weights go the way of large
files: they are announced, uploaded by their SHA-256, and named in the commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import yaml

TOKEN = "hf_of_the_fake_hub"
READ_ONLY = "hf_that_may_only_read"
OWNER = "me"
Answer = tuple[int, Any]
SIZES = {"n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "n>10M"}


class FakeHub:
    """What it holds and what it was asked."""

    def __init__(self, root: Path, fault: Callable[[str, str], int | None]) -> None:
        self.root = root
        self.fault = fault
        self.url = ""
        self.asked: list[str] = []
        """`POST /api/repos/create` and so on."""
        self.private: dict[str, bool] = {}
        """By kind and name: `models/me/mine`."""
        self.known: dict[str, Mapping[str, Any]] = {}
        """Front matter of other people's models."""
        self.commits = 0
        self.blobs: dict[str, bytes] = {}

    def folder(self, repo: str) -> Path:
        """The files of a repository, `models/me/mine`."""
        return self.root / repo

    def files(self, repo: str) -> list[str]:
        """Their names."""
        folder = self.folder(repo)
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    def answer(self, method: str, path: str, body: bytes, token: str) -> Answer:
        """Status and JSON."""
        self.asked.append(f"{method} {path}")
        if status := self.fault(method, path):
            return status, {"error": "as the test wants it"}
        if path.startswith("/lfs/"):  # its address is the permission
            return self._store(path.removeprefix("/lfs/"), body)
        if token not in (TOKEN, READ_ONLY):
            return 401, {"error": "Invalid username or password."}
        if token == READ_ONLY and method != "GET":
            return 403, {"error": "You don't have the rights to create a repo under this namespace"}
        if do := {"/api/repos/create": self._create, "/api/validate-yaml": self._validate}.get(path):
            return do(json.loads(body))
        return self._of_a_repo(path, body)

    def _of_a_repo(self, path: str, body: bytes) -> Answer:
        if re.fullmatch(r"/(?:datasets/)?[\w.-]+/[\w.-]+\.git/info/lfs/objects/batch", path):
            return self._batch(json.loads(body))
        if found := re.fullmatch(r"/api/((?:models|datasets)/[\w.-]+/[\w.-]+)(?:/(\w+)/main)?", path):
            return self._repo(found[1], found[2], body)
        if re.fullmatch(r"/api/models/[\w.-]+/[\w.-]+/revision/\w+", path):
            return 404, {"error": "Revision not found", "code": "RevisionNotFound"}
        return 404, {"error": f"the fake hub knows no {path}"}

    def _create(self, asked: dict[str, Any]) -> Answer:
        kind = f"{asked.get('type', 'model')}s"
        repo = f"{kind}/{asked['organization']}/{asked['name']}"
        if asked["organization"] != OWNER:
            return 403, {"error": "You don't have the rights to create a repo under this namespace"}
        if repo in self.private:
            return 409, {"error": "You already created this repo", "url": f"{self.url}/{repo}"}
        self.private[repo] = asked.get("visibility") == "private"
        self.folder(repo).mkdir(parents=True)
        return 200, {"url": f"{self.url}/{repo.removeprefix('models/')}"}

    def _validate(self, asked: dict[str, Any]) -> Answer:
        """A few of the hub's own rules for front matter."""
        found = re.match(r"---\n(.*?)\n---\n", asked["content"], re.DOTALL)
        data = yaml.safe_load(found[1]) if found else None
        if not isinstance(data, dict):
            return 400, {"errors": [{"message": "no metadata"}], "warnings": []}
        wrong = [key for key in ("license", "tags") if key not in data]
        wrong += [size for size in data.get("size_categories", []) if size not in SIZES]
        base = data.get("base_model")
        wrong += [base] if base is not None and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base) else []
        return (400 if wrong else 200), {"errors": [{"message": f"bad {one}"} for one in wrong], "warnings": []}

    def _repo(self, repo: str, do: str | None, body: bytes) -> Answer:
        name = repo.partition("/")[2]
        if name in self.known:
            return 200, {"id": name, "private": False, "cardData": self.known[name], "sha": "1" * 40}
        if repo not in self.private:
            return 404, {"error": "Repository not found", "code": "RepoNotFound"}
        if do == "preupload":
            return 200, {"files": [self._mode(repo, file) for file in json.loads(body)["files"]]}
        if do == "commit":
            return self._commit(repo, [json.loads(line) for line in body.splitlines()])
        return 200, {"id": name, "private": self.private[repo], "sha": "0" * 40}

    def _mode(self, repo: str, file: dict[str, Any]) -> dict[str, Any]:
        large = file["path"].endswith(".safetensors") or file["size"] > 10_000_000
        return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": None}

    def _batch(self, asked: dict[str, Any]) -> Answer:
        found = []
        for one in asked["objects"]:
            need = {"actions": {"upload": {"href": f"{self.url}/lfs/{one['oid']}"}}}
            found.append(one | ({} if one["oid"] in self.blobs else need))
        return 200, {"transfer": "basic", "objects": found}

    def _store(self, oid: str, body: bytes) -> Answer:
        if hashlib.sha256(body).hexdigest() != oid:
            return 400, {"error": "not the bytes that were announced"}
        self.blobs[oid] = body
        return 200, {}

    def _commit(self, repo: str, lines: list[dict[str, Any]]) -> Answer:
        """All of it or nothing."""
        contents: dict[str, bytes] = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                contents[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                contents[value["path"]] = self.blobs[value["oid"]]
        for name, content in contents.items():
            path = self.folder(repo) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.commits += 1
        oid = f"{self.commits:040x}"
        return 200, {"commitUrl": f"{self.url}/{repo.removeprefix('models/')}/commit/{oid}", "commitOid": oid}


@contextmanager
def fake_hub(root: Path, fault: Callable[[str, str], int | None] = lambda _method, _path: None) -> Iterator[FakeHub]:
    """Serve until the block ends. `fault` gives a status to answer in place of the true one."""
    hub = FakeHub(root, fault)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self._body()
            token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
            status, value = hub.answer(self.command, self.path.partition("?")[0], body, token)
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if code := value.get("code"):
                self.send_header("X-Error-Code", code)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = _serve

        def _body(self) -> bytes:
            if self.headers["Transfer-Encoding"] != "chunked":
                return self.rfile.read(int(self.headers["Content-Length"] or 0))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
