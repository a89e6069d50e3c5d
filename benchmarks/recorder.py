"""A model that two benchmarks count the requests of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rlaif.models.engine import ChatRequest, Reply


class Recorder:
    """A model that answers nothing and keeps what it was asked."""

    name = revision = "recorder"

    def __init__(self) -> None:
        self.asked: list[ChatRequest] = []

    def stream(self, requests: Iterable[ChatRequest]) -> Iterator[tuple[int, Reply]]:
        for number, request in enumerate(requests):
            self.asked.append(request)
            yield number, Reply(error="recorded")

    def close(self) -> None:
        pass
