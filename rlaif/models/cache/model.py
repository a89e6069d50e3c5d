"""A model that remembers: what was asked once is not asked again, also not by another run or after a kill.

A reply is found by all that it depends on: the model's name, its revision (which covers every file that shapes what it
says), and the whole request, seed included. Of a model whose revision is unknown nobody can say that it is still the
same tomorrow, so there the caller's scope belongs to the key. Errors and what answers nothing are never stored, so that
a later run asks again. The file is `store`'s.
"""

from __future__ import annotations

import hashlib
import json
import platform
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from threading import local
from typing import Any, Generic

from pydantic import BaseModel

from rlaif.config.models import RayModel
from rlaif.console import say
from rlaif.models.cache.store import ReplyStore, cache_path
from rlaif.models.engine import ChatRequest, Elsewhere, Engine, InLots, Lot, R, Reply, T, answers, as_text, lots_of
from rlaif.records import content_id, plain

ASKED = 2
"""Part of every key. Raise it when a request is put to a model, or its reply read, in another way than before."""
UNKNOWN = "unknown"
"""The revision of a model that cannot be told from another of its name (see `Engine.revision`)."""
FIELDS = [
    name
    for name, field in ChatRequest.model_fields.items()
    if not field.exclude and name not in {"messages", "answer", "shape"}
]
CHUNK = 500
"""Requests that are looked up at a time."""
READY = 5000
"""Replies out of the store that wait to be handed on, at most, while the model asks for more requests."""


def shared(model: Engine, config: BaseModel, scope: str) -> CachedModel:
    """The model behind the cache of all runs; `config` and `scope` part its replies if its revision is unknown."""
    answering = config.engine if isinstance(config, RayModel) else config
    return CachedModel(model, cache_path(), content_id(scope, answering.model_dump(mode="json")))


class CachedModel(InLots):
    """`model`, asked only for what the store at `path` does not hold.

    `scope` parts the replies of models of unknown revision; None shares them with nobody. What is missing goes to the
    model in the order given, and each lot of replies is stored in one transaction as it arrives, before it is handed
    on. Of a model that has windows, the whole requests are cut into these: where it cuts a window into batches from
    the front, each of them a lot, a killed call that is repeated asks for the remaining batches, cut as before.
    """

    def __init__(self, model: Engine, path: Path, scope: str | None = None) -> None:
        self.asked = 0
        """Requests that went to the model."""
        self.reused = 0
        """Requests answered without it: from the store, or asked twice in one call."""
        self._model = model
        self._scope = secrets.token_hex() if scope is None else scope
        self._store = ReplyStore(path)

    @property
    def name(self) -> str:
        return self._model.name

    @property
    def revision(self) -> str:
        return self._model.revision

    @property
    def shards(self) -> int:
        return getattr(self._model, "shards", 1)

    @property
    def elsewhere(self) -> Elsewhere | None:
        """What asks there looks into the same file, or into one beside it on another machine."""
        found: Elsewhere | None = getattr(self._model, "elsewhere", None)
        if found is None:
            return None
        each = found.each
        place = self._store.path, self._scope, platform.node()
        return found._replace(each=lambda work, items: each(Remembering(work, *place), items))

    def lots(self, requests: Iterable[ChatRequest]) -> Iterator[Lot]:
        """Stored replies as they are found, the model's as they arrive."""
        waiting = enumerate(requests)
        for first in waiting:
            yield from self._part(chain([first], waiting))

    def _part(self, waiting: Iterator[tuple[int, ChatRequest]]) -> Iterator[Lot]:
        """A window of the requests, or as many as the model reads before too many replies of the store wait."""
        window = getattr(self._model, "window", None)
        ready: list[tuple[int, Reply]] = []
        asked: dict[int, tuple[bytes, ChatRequest]] = {}
        """What the model has not answered yet, by its own numbers."""
        places: dict[bytes, list[int]] = {}
        """Whom each of these answers is for."""
        known: dict[bytes, Reply] = {}
        """Replies to requests of the chunk."""

        def missing() -> Iterator[ChatRequest]:
            left, count = window or READY, 0
            while left > 0 and (chunk := list(islice(waiting, min(CHUNK, left)))):
                keys = self._keys([request for _, request in chunk])
                known.clear()
                known.update(self._known({key: request for key, (_, request) in zip(keys, chunk, strict=True)}))
                left -= len(chunk) if window else len(known)
                for key, (number, request) in zip(keys, chunk, strict=True):
                    if key in known:
                        ready.append((number, known[key]))
                        self.reused += 1
                    elif key in places:
                        places[key].append(number)
                        self.reused += 1
                    else:
                        places[key] = [number]
                        asked[count] = key, request
                        count += 1
                        self.asked += 1
                        yield request

        for lot in lots_of(self._model, missing()):
            if ready:
                yield ready
                ready = []
            answered = [(*asked.pop(number), as_text(reply)) for number, reply in lot]
            arrived = {key: reply for key, _, reply in answered}
            arrived |= self._save({key: reply for key, request, reply in answered if answers(request, reply)})
            known.update(arrived)
            yield [(number, reply) for key, reply in arrived.items() for number in places.pop(key)]
        if ready:
            yield ready

    def close(self) -> None:
        """Close the store and the model."""
        self._store.close()
        self._model.close()

    def _known(self, asked: Mapping[bytes, ChatRequest]) -> dict[bytes, Reply]:
        """What the store holds of these. What is no answer to its request is forgotten there, and so asked again."""
        stored = self._store.load(asked)
        known = {k: reply for k, reply in stored.items() if reply is not None and answers(asked[k], reply)}
        if bad := stored.keys() - known.keys():
            self._store.forget(bad)
            say(f"  {len(bad)} kept replies of {self.name} were no answers; asked again")
        return known

    def _keys(self, requests: Sequence[ChatRequest]) -> list[bytes]:
        scope = self._scope if self.revision == UNKNOWN else ""
        model = [ASKED, self.name, self.revision, scope]
        texts = (json.dumps([*model, _asked(request)], sort_keys=True) for request in requests)
        return [hashlib.sha256(text.encode()).digest() for text in texts]

    def _save(self, replies: Mapping[bytes, Reply]) -> dict[bytes, Reply]:
        return self._store.save(replies, self.name, self.revision)


class Remembering(Generic[T, R]):
    """Work with an engine, done with a `CachedModel` of it in the process that has the engine."""

    def __init__(self, work: Callable[[Engine, T], R], path: Path, scope: str, machine: str) -> None:
        self._settings = work, path, scope, machine
        self._opened = local()
        """By thread: a store has one reader at a time."""

    def __call__(self, engine: Engine, item: T) -> R:
        work, path, scope, machine = self._settings
        if not hasattr(self._opened, "model"):
            if platform.node() != machine:  # SQLite's file is one machine's, on whatever disk
                path = path.with_stem(f"{path.stem}-{platform.node()}")
            self._opened.model = CachedModel(engine, path, scope)
        return work(self._opened.model, item)

    def __reduce__(self) -> tuple[Any, ...]:
        return Remembering, self._settings


def _asked(request: ChatRequest) -> dict[str, Any]:
    """What a request asks, as JSON takes it."""
    asked = {name: getattr(request, name) for name in FIELDS} | {"messages": plain(request.messages)}
    # `answer` and `shape` came later: a request without one keeps the key under which its reply lies.
    asked |= {} if request.answer is None else {"answer": request.answer}
    return asked if request.shape is None else asked | {"shape": request.shape.model_dump(mode="json")}
