"""A model that remembers: what was asked once is not asked again, also not after a kill.

The store is one SQLite file. A reply is found by all that it depends on: the model's name and revision, and the
whole request, seed included. Errors are never stored, so that a later run asks again.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

from rlaif.errors import DataError
from rlaif.models.chat import ChatModel, ChatRequest, OnReplies, Reply

BUSY_TIMEOUT_S = 60
KEYS_PER_QUERY = 500


class CachedModel:
    """`model`, asked only for what the store at `path` does not hold.

    What is missing goes to the model in one call, in the order given, and each lot of replies is stored in one
    transaction as it arrives. So where a model cuts its list into batches from the front and hands on each batch
    whole, a killed call that is repeated asks for the remaining batches, cut as before.
    """

    def __init__(self, model: ChatModel, path: Path) -> None:
        self.asked = 0
        """Requests that went to the model."""
        self.reused = 0
        """Requests answered without it: from the store, or asked twice in one call."""
        self._model = model
        self._store = _open(path)

    @property
    def name(self) -> str:
        return self._model.name

    @property
    def revision(self) -> str:
        return self._model.revision

    def chat(self, requests: Sequence[ChatRequest], on_replies: OnReplies | None = None) -> list[Reply]:
        """Answer every request, in order; `on_replies` gets the stored replies first, in one lot."""
        keys = [self._key(request) for request in requests]
        known = self._load(set(keys))
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
            self._save((missing[number], reply) for number, reply in lot if reply.error is None)
            if on_replies is not None:
                on_replies([(index, reply) for number, reply in lot for index in places[missing[number]]])

        if missing:
            replies = self._model.chat([requests[places[key][0]] for key in missing], keep)
            known |= dict(zip(missing, replies, strict=True))
        return [known[key] for key in keys]

    def close(self) -> None:
        """Close the store and the model."""
        self._store.close()
        self._model.close()

    def _key(self, request: ChatRequest) -> bytes:
        text = json.dumps([self.name, self.revision, request.model_dump(mode="json")], sort_keys=True)
        return hashlib.sha256(text.encode()).digest()

    def _load(self, keys: set[bytes]) -> dict[bytes, Reply]:
        wanted, found = list(keys), {}
        for start in range(0, len(wanted), KEYS_PER_QUERY):
            some = wanted[start : start + KEYS_PER_QUERY]
            marks = ",".join("?" * len(some))
            rows = self._store.execute(f"SELECT key, reply FROM replies WHERE key IN ({marks})", some)
            found.update({key: Reply.model_validate_json(reply) for key, reply in rows})
        return found

    def _save(self, replies: Iterable[tuple[bytes, Reply]]) -> None:
        rows = [(key, reply.model_dump_json()) for key, reply in replies]
        with self._store:
            # Where another process was faster its reply stands: what was once read must not change.
            self._store.executemany("INSERT OR IGNORE INTO replies VALUES (?, ?)", rows)


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    # The client may hand on replies from a thread of its own, one at a time.
    store = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
    try:
        store.execute("PRAGMA journal_mode = WAL")
        # NORMAL: a killed process loses nothing it committed. A power cut may lose the last replies, which are
        # then asked again, but never harms the file; FULL would pay an fsync a reply to save them.
        store.execute("PRAGMA synchronous = NORMAL")
        store.execute("CREATE TABLE IF NOT EXISTS replies (key BLOB PRIMARY KEY, reply TEXT) WITHOUT ROWID")
    except sqlite3.DatabaseError as error:
        store.close()
        raise DataError(f"{path}: not a usable reply cache: {error}; delete it or name another file") from None
    return store
