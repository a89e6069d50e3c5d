"""Which work is blamed for a lost worker, on a cluster that loses them by plan: no luck is part of it."""

from __future__ import annotations

import pickle
import random
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.config.models import RayModel, ScriptedModel
from rlaif.errors import ModelError
from rlaif.models.engine import ChatRequest, ask
from rlaif.models.ray import model as under_test
from rlaif.models.ray.crew import TRIES
from rlaif.models.ray.worker import unpacked
from rlaif.models.scripted import ScriptedChatModel
from rlaif.records import Message
from tests import unlucky_judge


class Death(Exception):
    """Stands for Ray's own."""


class FakeActor:
    """A worker in this process. It does its windows one after the other, and dies where its cluster says so."""

    def __init__(self, cluster: FakeCluster, made: Any) -> None:
        self.cluster, self.made, self.alive = cluster, made, True
        self.queue: deque[FakeCall] = deque()

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *given: FakeCall(self, name, given))


class FakeCall:
    """A reference to what comes of it."""

    def __init__(self, actor: FakeActor, name: str, given: tuple[Any, ...]) -> None:
        self.actor, self.name, self.given, self.found = actor, name, given, None
        actor.queue.append(self)

    @property
    def done(self) -> bool:
        return self.found is not None or not self.actor.alive

    def run(self) -> None:
        """It is the first of its worker."""
        if self.name == "do":
            number = next(iter(unpacked(pickle.loads(self.given[1])))).seed
            self.actor.cluster.begun.append(number)
            if self.actor.cluster.kills.get(number, 0) > 0:
                self.actor.cluster.kills[number] -= 1
                self.actor.alive = False
                return
        self.found = getattr(self.actor.made, self.name)(*self.given)
        self.actor.queue.remove(self)


class FakeCluster:
    """As much of `ray` as the crew uses. `kills[n]`: so many workers die of request n."""

    exceptions = SimpleNamespace(RayError=Death, RayTaskError=type("Never", (Exception,), {}))

    def __init__(self, kills: dict[int, int], seed: int) -> None:
        self.kills, self.chance = dict(kills), random.Random(seed)
        self.begun: list[int] = []

    def remote(self, kind: Any) -> Any:
        made = SimpleNamespace(remote=lambda config: FakeActor(self, kind(config)))
        return SimpleNamespace(options=lambda **_: made)

    def cluster_resources(self) -> dict[str, float]:
        return {}

    def wait(self, calls: list[FakeCall], **_: Any) -> tuple[list[FakeCall], list[FakeCall]]:
        while not (done := [call for call in calls if call.done]):
            self.chance.choice([call for call in calls if call.actor.queue[0] is call]).run()
        return done, []

    def get(self, call: FakeCall) -> Any:
        if call.found is None:
            raise Death("the worker died")
        return call.found

    def kill(self, actor: FakeActor) -> None:
        actor.alive = False

    def cancel(self, call: FakeCall) -> None:
        pass


REQUESTS = [ChatRequest(messages=(Message(role="user", content=f"say {n}"),), seed=n) for n in range(30)]


def replies(cluster: FakeCluster, workers: int, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setattr(under_test, "connect", lambda: cluster)
    monkeypatch.setattr(under_test, "leave", lambda: None)
    config = RayModel(engine=ScriptedModel(model="tests.unlucky_judge:parrot"), workers=workers, window=1)
    return ask(under_test.RayChatModel(config), REQUESTS)


@given(
    kills=st.dictionaries(st.integers(0, 29), st.integers(1, TRIES - 1), max_size=30),
    workers=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_nothing_is_given_up_for_what_other_work_did(kills: dict[int, int], workers: int, seed: int) -> None:
    """What others cost in the same workers is not counted."""
    with pytest.MonkeyPatch.context() as patch:
        found = replies(FakeCluster(kills, seed), workers, patch)
    assert found == ask(ScriptedChatModel(unlucky_judge.parrot), REQUESTS)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_what_loses_every_worker_is_named_soon(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster({11: 99}, seed=0)
    with pytest.raises(ModelError, match=rf"the worker died \(the last of {TRIES} that had nothing but this work\)$"):
        replies(cluster, workers, monkeypatch)
    assert cluster.begun.count(11) == 1 + TRIES
