"""A service without a socket: the application is called as a server would call it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from rlaif.api.inputs import label_of
from rlaif.api.scorers import Scored
from rlaif.config.judging import ScoreMode
from rlaif.constitution import Constitution
from rlaif.models.engine import ChatRequest, Reply
from rlaif.models.scripted import ScriptedChatModel
from rlaif.serve.access import Access
from rlaif.serve.app import make_app
from rlaif.serve.records import ServiceLog
from rlaif.serve.service import Limits, Service
from rlaif.serve.target import JudgeTarget, Question, Target

ROOMY, ANYBODY = Limits(), Access()
HOME = "http://127.0.0.1:8790"
Ask = Callable[[httpx.AsyncClient], Awaitable[Any]]


class Lengths(Target):
    """What a text is worth is how long it is; of one that says `none` nothing is known."""

    name, revision, workers = "lengths", "1", 1

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def score(self, questions: Sequence[Question]) -> list[Scored]:
        self.batches.append([one.text for one in questions])
        return [
            Scored(None, "it says none") if "none" in one.text else Scored(float(len(one.text))) for one in questions
        ]


class Served:
    """A service, what it recorded, and requests to it."""

    def __init__(self, service: Service, folder: Path, access: Access) -> None:
        self.service, self.folder = service, folder
        self.app = make_app(service, access)

    def together(self, ask: Ask) -> Any:
        """What comes of asking, on one event loop."""

        async def asked() -> Any:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url=HOME, timeout=30) as client:
                return await ask(client)

        return asyncio.run(asked())

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        reply: httpx.Response = self.together(lambda client: client.post(path, json=body, **more))
        return reply

    def get(self, path: str, **more: Any) -> httpx.Response:
        reply: httpx.Response = self.together(lambda client: client.get(path, **more))
        return reply

    def rows(self) -> list[dict[str, Any]]:
        """What is recorded, the files in order."""
        files = [*sorted(self.folder.glob("judgments-*.jsonl")), self.folder / "judgments.jsonl"]
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@contextmanager
def serving(
    target: Target, folder: Path, parser: Any = None, limits: Limits = ROOMY, access: Access = ANYBODY
) -> Iterator[Served]:
    """The service of this target until the block ends."""
    service = Service(target, parser, ServiceLog(folder), limits)
    try:
        yield Served(service, folder, access)
    finally:
        service.close()


def judged_by(constitution: Constitution, answer: Callable[[ChatRequest], Reply | dict[str, float]]) -> JudgeTarget:
    """A judge that answers by a function, and scores."""
    engine = ScriptedChatModel(answer, "scripted")
    return JudgeTarget(constitution, engine, ScoreMode(), label_of("compare", {}), 0, "tests", 1)
