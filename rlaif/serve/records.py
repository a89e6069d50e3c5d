"""What the service answered, as rows of judgments.jsonl in its folder; full files are numbered and kept.

A row is on disk (in the system's hands) before the answer is sent, so a kill loses none. What a kill left half-written
was never answered, and is cut off when the service starts again.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import Field

from rlaif.errors import ConfigError, RlaifError
from rlaif.files import no_link, writing
from rlaif.jsonl import dumps
from rlaif.records import Failure, Judgment, Messages, Pair, Record, Score

CURRENT = "judgments.jsonl"
LARGEST = 256 << 20
"""Bytes of one file, the last row aside."""


class NotRecorded(RlaifError, RuntimeError):
    """The disk refuses, so nothing is answered."""


class ServedScore(Record):
    """What one response was said to be worth, or why nothing was said."""

    kind: Literal["score"] = "score"
    protocol: str
    target: str
    revision: str
    prompt: Messages
    tags: tuple[str, ...] = ()
    text: str
    principles: tuple[str, ...] = ()
    """Those that the request named; none: all of the constitution."""
    value: float | None
    parts: dict[str, float | None] = Field(default_factory=dict)
    """What the value is made of, where it is a sum or an ensemble's."""
    reason: str = ""
    """Why there is no value."""
    score: Score | None = None
    """A judge's, with its provenance."""
    failures: tuple[Failure, ...] = ()


class ServedJudgment(Record):
    """Which of two responses was said to be better, or why nothing was said."""

    kind: Literal["judgment"] = "judgment"
    protocol: str
    target: str
    revision: str
    pair: Pair
    principles: tuple[str, ...] = ()
    judgment: Judgment | None
    failures: tuple[Failure, ...] = ()


ServedRow = ServedScore | ServedJudgment


class ServiceLog:
    """The rows of one service; of one process at a time."""

    def __init__(self, folder: Path, largest: int = LARGEST) -> None:
        """ConfigError where another process has the folder, or it cannot be written."""
        self.folder = folder
        self.path = folder / CURRENT
        self._largest = largest
        self._file = -1
        self._size = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / ".lock").acquire(blocking=False)
            self._open()
        except Timeout:
            raise ConfigError(f"{folder}: another process serves from this folder; name another with --out") from None
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be a service's folder: {error.strerror}") from None

    def write(self, rows: Iterable[Record]) -> None:
        """Append the rows, all or none. NotRecorded where the disk refuses."""
        data = "".join(f"{dumps(row)}\n" for row in rows).encode()
        if not data:
            return
        try:
            with writing(self.path):
                if self._size >= self._largest:
                    self._rotate()
                if os.write(self._file, data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise NotRecorded(f"{self.path}: not recorded, so not answered: {error.strerror or error}") from None
        self._size += len(data)

    def close(self) -> None:
        """Calling it twice does no harm."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self._lock.lock.release()

    def _open(self) -> None:
        self._file = no_link(str(self.path), os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.fchmod(self._file, 0o600)  # it holds what people wrote
        self._size = _whole_rows(self._file)
        os.ftruncate(self._file, self._size)

    def _rotate(self) -> None:
        earlier = (path.stem.removeprefix("judgments-") for path in self.folder.glob("judgments-*.jsonl"))
        number = 1 + max((int(last) for last in earlier if last.isdecimal()), default=0)
        full = self._file
        os.rename(self.path, self.folder / f"judgments-{number:06}.jsonl")
        self._open()
        os.close(full)


def _whole_rows(file: int) -> int:
    """The bytes up to the end of the last whole row."""
    end = size = os.fstat(file).st_size
    while end:
        begin = max(0, end - (1 << 16))
        found = os.pread(file, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0 if size else size
