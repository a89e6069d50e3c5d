"""What a file or a folder holds, as one hash. A large file that has not changed is read once in a process."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

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


def hash_files(files: list[Path], root: Path) -> str:
    """SHA-256 (16 hex digits) of these files' names below `root` and their contents."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(os.fsencode(file.relative_to(root)))
        digest.update(file_digest(file))
    return digest.hexdigest()[:16]


def hash_path(path: Path) -> str:
    """SHA-256 (16 hex digits) of a file, or of a folder's names and contents; 'absent' when there is none."""
    if path.is_file():
        return hash_files([path], path.parent)
    if path.is_dir():
        return hash_files(sorted(p for p in path.rglob("*") if p.is_file()), path.parent)
    return "absent"


def _stamp(path: Path) -> tuple[int, ...]:
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
