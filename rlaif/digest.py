"""What a file or a folder holds, as one hash. A large file that has not changed is read once in a process, or once
altogether where a memo is kept."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlaif.errors import DataError
from rlaif.forms import OBJECT
from rlaif.jsonl import read_json, write_json

LARGE = 64 * 2**20
"""Bytes. Reading so many outlasts a tick of the file system's clock, so a file rewritten since has another time."""

_known: dict[tuple[int, ...], bytes] = {}


def file_digest(path: Path) -> bytes:
    """The SHA-256 of a file's content."""
    before = _stamp(path)
    if before in _known:
        return _known[before]
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").digest()
    if os.stat(path).st_size >= LARGE and _stamp(path) == before:
        _known[before] = found
    return found


def hash_files(files: list[Path], root: Path, digest_of: Callable[[Path], bytes] = file_digest) -> str:
    """SHA-256 (16 hex digits) of these files' names below `root` and their contents."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(os.fsencode(file.relative_to(root)))
        digest.update(digest_of(file))
    return digest.hexdigest()[:16]


def hash_path(path: Path, digest_of: Callable[[Path], bytes] = file_digest) -> str:
    """SHA-256 (16 hex digits) of a file, or of a folder's names and contents; 'absent' when there is none."""
    if path.is_file():
        return hash_files([path], path.parent, digest_of)
    if path.is_dir():
        return hash_files(sorted(p for p in path.rglob("*") if p.is_file()), path.parent, digest_of)
    return "absent"


class Memo:
    """A file that remembers the digests of large files, by their size, time of change and inode: none is read again
    until one of these differs. Small files are always read."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, Any] = {}
        with contextlib.suppress(DataError, OSError):  # whatever lies there: the files are read again
            self._known = read_json(file, OBJECT)

    def hash(self, path: Path) -> str:
        """As `hash_path`."""
        return hash_path(path, self._digest)

    def _digest(self, path: Path) -> bytes:
        found = os.stat(path)
        if found.st_size < LARGE:
            return file_digest(path)
        name = ascii(os.path.relpath(path, self._file.parent))  # which need not be text
        stamp = [found.st_size, found.st_mtime_ns, found.st_ino]
        match self._known.get(name):
            case [*before, str(known)] if before == stamp:
                return bytes.fromhex(known)
        digest = file_digest(path)
        self._known[name] = [*stamp, digest.hex()]
        with contextlib.suppress(OSError):  # another's run, which may only be read: nothing is lost but time
            write_json(self._file, self._known)
        return digest


def _stamp(path: Path) -> tuple[int, ...]:
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
