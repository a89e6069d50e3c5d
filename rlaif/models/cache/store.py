"""The file that holds replies by key: one SQLite database for all runs of a user.

Any process may be killed at any instant and loses nothing that `save` returned from; any number of processes of one
machine may share the file. Not for a file system that several machines write to: there each needs its own file.
What a key is made of is `model`'s. Pruned replies are not lost for good: what is missing is asked again.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import tenacity
from pydantic import ValidationError

from rlaif.errors import ConfigError, DataError, did_you_mean
from rlaif.files import begin_private
from rlaif.models.engine import Reply

FORMAT = 1
"""Of the file, in its `user_version`."""
BUSY_TIMEOUT_S = 60
KEYS_PER_QUERY = 500
TABLE = """CREATE TABLE replies (
    key BLOB PRIMARY KEY, reply TEXT NOT NULL,
    model TEXT NOT NULL, revision TEXT NOT NULL, created INTEGER NOT NULL, size INTEGER NOT NULL)"""

OLDEST_BEYOND = """SELECT rowid FROM (
    SELECT rowid, SUM(size) OVER (ORDER BY created DESC, rowid DESC) AS newer FROM replies WHERE {}) WHERE newer > ?"""
INSERT = "INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?, ?)"


def cache_folder() -> Path:
    """Where rlaif keeps what can be fetched or asked again: `$RLAIF_CACHE`, or rlaif in the user's cache folder."""
    if own := os.environ.get("RLAIF_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rlaif"


def cache_path() -> Path:
    """The file shared by all runs: `$RLAIF_REPLIES`, or replies.sqlite in the cache folder."""
    if own := os.environ.get("RLAIF_REPLIES"):
        return Path(own).expanduser()
    return cache_folder() / "replies.sqlite"


class ReplyStore:
    """The open file. Raises DataError, naming the file and the way out, where it cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            begin_private(path)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}; name another file with RLAIF_REPLIES") from None
        with usable(path):
            # A stream may be read, or closed, in another thread than this one; one at a time.
            self._store = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
            try:
                _prepare(self._store, path)
            except BaseException:
                self._store.close()
                raise

    def load(self, keys: Collection[bytes]) -> dict[bytes, Reply | None]:
        """The stored replies among these keys; None for a row that is no reply."""
        wanted, found = list(keys), {}
        for start in range(0, len(wanted), KEYS_PER_QUERY):
            some = wanted[start : start + KEYS_PER_QUERY]
            marks = ",".join("?" * len(some))
            with usable(self.path):
                rows = self._store.execute(
                    f"SELECT key, CAST(reply AS BLOB) FROM replies WHERE key IN ({marks})", some
                ).fetchall()
            found.update({key: _read(reply) for key, reply in rows})
        return found

    def save(self, replies: Mapping[bytes, Reply], model: str, revision: str) -> dict[bytes, Reply]:
        """Store in one transaction; the replies that now stand.

        Where another process was faster its reply stands, so that what was once read never changes. A reply that the
        file cannot hold is not stored, and costs no other.
        """
        now, rows = int(time.time()), []
        for key, reply in replies.items():
            text = reply.model_dump_json()
            size = len(key) + len(text.encode()) + len(model.encode()) + len(revision.encode())
            rows.append((key, text, model, revision, now, size))
        with usable(self.path), self._store:
            try:
                added = self._store.executemany(INSERT, rows).rowcount
            except (sqlite3.DataError, OverflowError):  # one is larger than SQLite's limits
                added = sum(self._insert(row) for row in rows)
        stored = {} if added == len(rows) else self.load(replies)
        return {**replies, **{key: reply for key, reply in stored.items() if reply is not None}}

    def _insert(self, row: tuple[object, ...]) -> int:
        try:
            return self._store.execute(INSERT, row).rowcount
        except (sqlite3.DataError, OverflowError):
            return 0

    def forget(self, keys: Collection[bytes]) -> None:
        """Remove these replies."""
        with usable(self.path), self._store:
            self._store.executemany("DELETE FROM replies WHERE key = ?", [(key,) for key in keys])

    def close(self) -> None:
        """Close the file; the last one to do so leaves a single file. Calling it twice does no harm."""
        self._store.close()


def _read(reply: bytes | None) -> Reply | None:
    try:
        return Reply.model_validate_json(reply or b"")
    except ValidationError:
        return None


@contextmanager
def usable(path: Path) -> Iterator[None]:
    """What SQLite raises inside, as a DataError that names the file and the way out."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise  # a fault of this program, not of the file
    except sqlite3.DatabaseError as error:
        code = error.sqlite_errorcode & 0xFF  # the rest tells variants apart
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            raise DataError(damaged(path, str(error))) from None
        kept = f": another process has kept it for {BUSY_TIMEOUT_S} s" if code == sqlite3.SQLITE_BUSY else ""
        raise DataError(
            f"{path}: the reply cache cannot be used: {error}{kept}; mend that or name another file with RLAIF_REPLIES"
        ) from None


def damaged(path: Path, evidence: str) -> str:
    """The one line about a file that cannot be read."""
    return (
        f"{path}: not a usable reply cache: {evidence}; name another file with RLAIF_REPLIES, or move this one away "
        f"with {path.name}-wal and -shm (SQLite's `.recover` may save its replies)"
    )


@tenacity.retry(
    # Two that make the file at once do not wait for each other here, whatever the timeout says.
    retry=tenacity.retry_if_exception(lambda e: isinstance(e, sqlite3.OperationalError) and "locked" in str(e)),
    wait=tenacity.wait_random(0.01, 0.05),
    stop=tenacity.stop_after_delay(BUSY_TIMEOUT_S),
    reraise=True,
)
def _prepare(store: sqlite3.Connection, path: Path) -> None:
    """Make the table if the file is new. DataError for a file of another format."""
    store.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of a new file only: pruning then gives room back
    store.execute("PRAGMA journal_mode = WAL")
    # NORMAL: a killed process loses nothing it committed. A power cut may lose the last replies, which are
    # then asked again, but never harms the file; FULL would pay an fsync a reply to save them.
    store.execute("PRAGMA synchronous = NORMAL")
    if _format(store) == FORMAT:
        return
    store.execute("BEGIN IMMEDIATE")
    with store:
        if _format(store) == FORMAT:  # another process may have made it while this one waited
            return
        if store.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise DataError(damaged(path, f"its format is {_format(store)}, not {FORMAT}"))
        store.execute(TABLE)
        store.execute(f"PRAGMA user_version = {FORMAT}")


def _format(store: sqlite3.Connection) -> int:
    found: int = store.execute("PRAGMA user_version").fetchone()[0]
    return found


# ------------------------------------------------------------------------------------------------- upkeep


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
