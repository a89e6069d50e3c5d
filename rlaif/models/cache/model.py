"""A model that remembers: what was asked once is not asked again, also not by another run or after a kill.

A reply is found by all that it depends on: the model's name, its revision (which covers every file that shapes what it
says), and the whole request, seed included. Of a model whose revision is unknown nobody can say that it is still the
same tomorrow, so there the caller's scope belongs to the key. Errors and what answers nothing are never stored, so that
a later run asks again. The file is `store`'s.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel

from rlaif.console import say
from rlaif.models.cache.store import ReplyStore, cache_path
from rlaif.models.chat import ChatModel, ChatRequest, OnReplies, Reply, answers, as_text
from rlaif.records import content_id

ASKED = 2
"""Part of every key. Raise it when a request is put to a model, or its reply read, in another way than before."""
UNKNOWN = "unknown"
"""The revision of a model that cannot be told from another of its name (see `ChatModel.revision`)."""


def shared(model: ChatModel, config: BaseModel, scope: str) -> CachedModel:
    """The model behind the cache of all runs; `config` and `scope` part its replies if its revision is unknown."""
    return CachedModel(model, cache_path(), content_id(scope, config.model_dump(mode="json")))


class CachedModel:
    """`model`, asked only for what the store at `path` does not hold.

    `scope` parts the replies of models of unknown revision; None shares them with nobody. What is missing goes to
    the model in one call, in the order given, and each lot of replies is stored in one transaction as it arrives,
    before it is handed on. So where a model cuts its list into batches from the front and hands on each batch
    whole, a killed call that is repeated asks for the remaining batches, cut as before.
    """

    def __init__(self, model: ChatModel, path: Path, scope: str | None = None) -> None:
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

    def chat(self, requests: Sequence[ChatRequest], on_replies: OnReplies | None = None) -> list[Reply]:
        """Answer every request, in order; `on_replies` gets the stored replies first, in one lot."""
        keys = self._keys(requests)
        known = self._known(dict(zip(keys, requests, strict=True)))
        places: dict[bytes, list[int]] = {}
        """Where each missing reply belongs, in the order in which it is first wanted."""
        for index, key in enumerate(keys):
            if key not in known:
                places.setdefault(key, []).append(index)
        missing = list(places)
        self.asked += len(missing)
        self.reused += len(requests) - len(missing)
        if on_replies is not None and known:
            on_replies([(index, known[key]) for index, key in enumerate(keys) if key in known])

        def keep(lot: Sequence[tuple[int, Reply]]) -> None:
            arrived = {missing[number]: as_text(reply) for number, reply in lot}
            kept = {key: reply for key, reply in arrived.items() if answers(requests[places[key][0]], reply)}
            arrived |= self._save(kept)
            known.update(arrived)
            if on_replies is not None:
                on_replies([(index, reply) for key, reply in arrived.items() for index in places[key]])

        if missing:
            self._model.chat([requests[places[key][0]] for key in missing], keep)
        return [known[key] for key in keys]

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
        # `answer` came later: a request without one keeps the key under which its reply lies.
        asked = (r.model_dump(mode="json", exclude={"answer"} if r.answer is None else None) for r in requests)
        texts = (json.dumps([*model, one], sort_keys=True) for one in asked)
        return [hashlib.sha256(text.encode()).digest() for text in texts]

    def _save(self, replies: Mapping[bytes, Reply]) -> dict[bytes, Reply]:
        return self._store.save(replies, self.name, self.revision)
