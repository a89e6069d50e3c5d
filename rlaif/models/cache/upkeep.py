"""Look into the reply cache and make it smaller. Nothing is lost for good: what is missing is asked again."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from rlaif.errors import ConfigError, DataError, did_you_mean
from rlaif.models.cache.store import BUSY_TIMEOUT_S, ReplyStore, damaged, usable

OLDEST_BEYOND = """SELECT rowid FROM (
    SELECT rowid, SUM(size) OVER (ORDER BY created DESC, rowid DESC) AS newer FROM replies WHERE {}) WHERE newer > ?"""


class ModelReplies(NamedTuple):
    """What the cache holds of one model."""

    model: str
    revision: str
    replies: int
    bytes: int
    oldest: int
    """Unix seconds at which the first of them was stored; `newest` likewise."""
    newest: int

    def cells(self) -> tuple[str, ...]:
        """The row of a table: sizes in MB, days in UTC."""
        days = (time.strftime("%Y-%m-%d", time.gmtime(seconds)) for seconds in (self.oldest, self.newest))
        return (self.model, self.revision, str(self.replies), f"{self.bytes / 1e6:.2f}", *days)


class PruneResult(NamedTuple):
    """What was removed."""

    replies: int
    bytes: int


def cache_summary(path: Path) -> list[ModelReplies]:
    """What the cache holds, most bytes first; nothing where there is no file. DataError for a damaged file."""
    if not path.exists():
        return []
    with _checked(path) as store:
        rows = store.execute(
            "SELECT model, revision, COUNT(*), SUM(size), MIN(created), MAX(created) FROM replies "
            "GROUP BY model, revision ORDER BY SUM(size) DESC, model, revision"
        )
        return [ModelReplies(*row) for row in rows]


def prune(
    path: Path,
    *,
    older_than_s: float | None = None,
    model: str | None = None,
    everything: bool = False,
    to_bytes: int | None = None,
) -> PruneResult:
    """Remove replies older than so many seconds, or of one model; with both, only what is both.

    `to_bytes` then removes the oldest (of that model) until the rest is no larger; alone it removes only those.
    `everything` overrules the rest. The file shrinks, and other processes may go on using it. ConfigError where
    nothing says what to remove; DataError for a damaged file.
    """
    if older_than_s is None and model is None and to_bytes is None and not everything:
        raise ConfigError("cache prune: say what to remove: replies of some age, of a model, beyond a size, or all")
    if not path.exists():
        return PruneResult(0, 0)
    whose, named = ("TRUE", []) if model is None or everything else ("model = ?", [model])
    with _checked(path) as store:
        if model is not None:
            _check_known(store, model)
        before = _total(store)
        with store:
            if older_than_s is not None and not everything:
                oldest_kept = time.time() - older_than_s
                store.execute(f"DELETE FROM replies WHERE {whose} AND created < ?", [*named, oldest_kept])
            elif to_bytes is None or everything:
                store.execute(f"DELETE FROM replies WHERE {whose}", named)
            if to_bytes is not None:
                beyond = OLDEST_BEYOND.format(whose)
                store.execute(f"DELETE FROM replies WHERE rowid IN ({beyond})", [*named, to_bytes])
        after = _total(store)
        store.executescript("PRAGMA incremental_vacuum")  # `execute` would give back one page and stop
        # With another process at work only part of the log can be folded in; the last to close does the rest.
        store.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return PruneResult(before.replies - after.replies, before.bytes - after.bytes)


@contextmanager
def _checked(path: Path) -> Iterator[sqlite3.Connection]:
    """The open file, once every page of it has been looked at."""
    ReplyStore(path).close()  # says what is wrong with a file of another kind
    with usable(path), closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as store:
        found = store.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise DataError(damaged(path, " ".join(found.split())))
        yield store


def _check_known(store: sqlite3.Connection, model: str) -> None:
    known = [name for (name,) in store.execute("SELECT DISTINCT model FROM replies")]
    if model not in known:
        raise ConfigError(f"cache prune: holds no replies of model '{model}'{did_you_mean(model, known)}")


def _total(store: sqlite3.Connection) -> PruneResult:
    return PruneResult(*store.execute("SELECT COUNT(*), COALESCE(SUM(size), 0) FROM replies").fetchone())
