"""answers.sqlite: every answer that people gave, who is looking at what, and what came beside a served policy: its
replies, and thumbs and edits of them.

An answer is a row; taking it back is another row: nothing that a person said is ever changed or removed. What counts is
the view `standing`: each annotator's last answer to each pair, unless it was taken back. A process or the machine may
die at any instant and loses nothing that a method returned from. Which pair to give to whom is `desk.py`'s; which files
it all becomes, `publish.py`'s.
"""

from __future__ import annotations

import json
import sqlite3
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from rlaif.errors import DataError
from rlaif.files import begin_private
from rlaif.records import Messages, Pair, Record, Side

FORMAT = 1
"""Of the file, in its `user_version`."""
BUSY_TIMEOUT_S = 1
"""How long a request waits while another program writes: one thread serves the page, and the page sends again."""
TABLES = """
CREATE TABLE pairs (id TEXT PRIMARY KEY, pair TEXT NOT NULL);
CREATE TABLE answers (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, pair_id TEXT NOT NULL REFERENCES pairs (id),
    annotator TEXT NOT NULL, choice TEXT NOT NULL CHECK (choice IN ('a', 'b', 'tie', 'skip')),
    shown_first TEXT NOT NULL CHECK (shown_first IN ('a', 'b')), seconds REAL NOT NULL, reason TEXT NOT NULL,
    principles TEXT NOT NULL, edited TEXT);
CREATE TABLE undone (answer_id TEXT PRIMARY KEY, annotator TEXT NOT NULL);
CREATE TABLE held (
    number INTEGER PRIMARY KEY AUTOINCREMENT, pair_id TEXT NOT NULL REFERENCES pairs (id), annotator TEXT NOT NULL,
    until REAL NOT NULL, UNIQUE (pair_id, annotator));
CREATE VIEW standing AS SELECT * FROM answers WHERE number IN (
    SELECT MAX(number) FROM answers
    WHERE NOT EXISTS (SELECT 1 FROM undone WHERE answer_id = id AND undone.annotator = answers.annotator)
    GROUP BY pair_id, annotator);
"""
LIVE = """
CREATE TABLE IF NOT EXISTS live (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, row TEXT NOT NULL)
"""
"""Came later: an older rlaif reads the file without it."""
BY_KIND = "CREATE INDEX IF NOT EXISTS live_by_kind ON live (kind, number)"
ANSWER = "INSERT INTO answers (id, pair_id, annotator, choice, shown_first, seconds, reason, principles, edited) "


def _tidy(name: object) -> object:
    return " ".join(unicodedata.normalize("NFC", name).split()) if isinstance(name, str) else name


Annotator = Annotated[
    str,
    StringConstraints(min_length=1, max_length=60, pattern=r"^[^\x00-\x1f\x7f]*$"),
    BeforeValidator(_tidy),
]
"""A name as people write it; spaces and accents are written one way, so that one person stays one."""
AnswerId = Annotated[str, Field(pattern=r"^[0-9A-Za-z-]{8,64}$")]
Decided = Literal["a", "b", "tie"]
Choice = Literal["a", "b", "tie", "skip"]
LiveKind = Literal["reply", "thumb", "edit", "pair"]


class ServedReply(Record):
    """What a served policy answered: feedback may name it by its id."""

    prompt: Messages
    text: str


class Thumb(Record):
    """Whether somebody likes a response: a row of the form `thumbs`."""

    prompt: Messages
    completion: str
    label: bool
    annotator: Annotator
    reason: str = ""


class PageAnswer(Record):
    """One answer as the page sends it. The id is made there, so that one that is sent twice counts once."""

    id: AnswerId
    pair_id: str
    annotator: Annotator
    choice: Choice
    shown_first: Side
    seconds: float = Field(ge=0, allow_inf_nan=False)
    """For which the pair could be seen before it was answered."""
    reason: str = ""
    principles: dict[str, Decided] = Field(default_factory=dict)
    edited: str | None = None
    """What the annotator made of the response that they chose."""

    @model_validator(mode="after")
    def _edits_the_chosen_one(self) -> Self:
        if self.edited is not None and self.choice not in ("a", "b"):
            raise ValueError("an edit goes with a choice of a or b")
        if self.edited is not None and not self.edited.strip():
            raise ValueError("an edit must leave some text")
        return self


class Hold(NamedTuple):
    """A pair that was given to an annotator who has not answered it yet, until this clock time."""

    pair_id: str
    annotator: str
    until: float


class AnswerStore:
    """The open file. DataError, naming it, where it cannot be used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.is_symlink():
            raise DataError(f"{path}: a link; people's answers are kept in the run folder itself")
        try:
            begin_private(path)
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror}") from None
        with self._usable():
            # Used by one thread at a time, which need not be the one that opened it.
            self._base = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
            try:
                self._prepare()
            except BaseException:
                self._base.close()
                raise

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    # ---------------------------------------------------------------------------------------------- answers

    def add(self, given: PageAnswer, pair: Pair | None = None) -> None:
        """Keep the answer; it is on disk when this returns. One with an id that is known already changes nothing.

        DataError for a pair that was never shown to anybody, unless the pair itself is given too.
        """
        with self._usable(), self._base:
            if pair:
                self._base.execute("INSERT OR IGNORE INTO pairs VALUES (?, ?)", [pair.id, pair.model_dump_json()])
            if not self._base.execute("SELECT 1 FROM pairs WHERE id = ?", [given.pair_id]).fetchone():
                raise DataError(f"{self._path}: no pair {given.pair_id!r} was shown to anybody")
            row = given.model_dump() | {"principles": json.dumps(given.principles, sort_keys=True)}
            values = (
                "VALUES (:id, :pair_id, :annotator, :choice, :shown_first, :seconds, :reason, :principles, :edited)"
            )
            self._base.execute(f"{ANSWER} {values} ON CONFLICT (id) DO NOTHING", row)
            self._base.execute("DELETE FROM held WHERE pair_id = ? AND annotator = ?", [given.pair_id, given.annotator])

    def undo(self, annotator: str, answer_id: str) -> None:
        """Take back an answer of this annotator, now or when it comes in; its pair is the next to be shown to them."""
        with self._usable(), self._base:
            fresh = self._base.execute("INSERT OR IGNORE INTO undone VALUES (?, ?)", [answer_id, annotator]).rowcount
            where = "WHERE id = ? AND annotator = ?"
            row = self._base.execute(f"SELECT pair_id FROM answers {where}", [answer_id, annotator]).fetchone()
            if fresh and row:
                (first,) = self._base.execute("SELECT MIN(number) FROM held").fetchone()
                self._base.execute("DELETE FROM held WHERE pair_id = ? AND annotator = ?", [row[0], annotator])
                self._base.execute("INSERT INTO held VALUES (?, ?, ?, 0)", [min(first or 0, 0) - 1, row[0], annotator])

    def standing(self) -> list[PageAnswer]:
        """The answers that count, in the order in which they came."""
        columns = ", ".join(PageAnswer.model_fields)
        with self._usable():
            rows = self._base.execute(f"SELECT {columns} FROM standing ORDER BY number").fetchall()
        found = (dict(zip(PageAnswer.model_fields, row, strict=True)) for row in rows)
        return [PageAnswer.model_construct(**row | {"principles": json.loads(row["principles"])}) for row in found]

    def pairs(self) -> dict[str, Pair]:
        """Every pair that was ever shown, by id."""
        with self._usable():
            rows = self._base.execute("SELECT id, pair FROM pairs").fetchall()
        return {pair_id: Pair.model_validate_json(text) for pair_id, text in rows}

    # ------------------------------------------------------------------------------------------ a served policy

    def keep(self, identity: str, kind: LiveKind, row: Record) -> None:
        """Keep a row under its id; it is on disk when this returns. One whose id is known already changes nothing."""
        with self._usable(), self._base:
            insert = "INSERT INTO live (id, kind, row) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING"
            self._base.execute(insert, [identity, kind, row.model_dump_json()])

    def kept(self, kind: LiveKind, identity: str | None = None) -> list[tuple[str, str]]:
        """Ids and rows (JSON) of this kind, in the order in which they came; only this one."""
        with self._usable():
            where = "kind = ?" if identity is None else "kind = ? AND id = ?"
            values = [kind] if identity is None else [kind, identity]
            return self._base.execute(f"SELECT id, row FROM live WHERE {where} ORDER BY number", values).fetchall()

    def prune(self, most: int) -> int:
        """Forget all replies but the last `most`, and say how many; their place in the file is used again."""
        last = "SELECT number FROM live WHERE kind = 'reply' ORDER BY number DESC LIMIT 1 OFFSET ?"
        with self._usable(), self._base:
            return self._base.execute(f"DELETE FROM live WHERE kind = 'reply' AND number <= ({last})", [most]).rowcount

    # ------------------------------------------------------------------------------------------ who holds what

    def held(self) -> list[Hold]:
        """All that is held, or was until its time ran out, in the order in which it is to be shown."""
        with self._usable():
            rows = self._base.execute("SELECT pair_id, annotator, until FROM held ORDER BY number").fetchall()
        return [Hold(*row) for row in rows]

    def hold(self, annotator: str, pairs: list[Pair], until: float) -> None:
        """Let the annotator hold exactly these until then: new ones come last, others of theirs are given back."""
        with self._usable(), self._base:
            kept = [pair.id for pair in pairs]
            marks = ",".join("?" * len(kept))
            self._base.execute(f"DELETE FROM held WHERE annotator = ? AND pair_id NOT IN ({marks})", [annotator, *kept])
            self._base.executemany(
                "INSERT OR IGNORE INTO pairs VALUES (?, ?)", [(pair.id, pair.model_dump_json()) for pair in pairs]
            )
            self._base.executemany(
                "INSERT INTO held (pair_id, annotator, until) VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET until = excluded.until",
                [(pair_id, annotator, until) for pair_id in kept],
            )

    # ---------------------------------------------------------------------------------------------- the file

    def _prepare(self) -> None:
        base = self._base
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = FULL")  # an answer is a person's time: not even a power cut may lose one
        base.execute("PRAGMA foreign_keys = ON")
        (found,) = base.execute("PRAGMA user_version").fetchone()
        if found == FORMAT:
            base.execute(LIVE)
            base.execute(BY_KIND)
            return
        if found or base.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise DataError(f"{self._path}: not answers of this rlaif: its format is {found}, not {FORMAT}")
        base.executescript(f"BEGIN IMMEDIATE; {TABLES} {LIVE}; {BY_KIND}; PRAGMA user_version = {FORMAT}; COMMIT")

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:
            raise  # a fault of this program, not of the file
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # above the low byte is which kind
            if code == sqlite3.SQLITE_BUSY:
                raise DataError(f"{self._path}: another program is writing to it; try again") from None
            raise DataError(f"{self._path}: answers cannot be kept or read: {error}") from None
