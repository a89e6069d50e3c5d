"""Files that a person named, or that stand in a run folder: none is read that does not end, none written unnamed."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def open_file(path: Path) -> BinaryIO:
    """A regular file, to be read. OSError, naming it, for anything else: a folder, a pipe, a device, no file.

    A pipe without a writer would never be open, and a device may never end.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except ValueError:
        raise OSError(errno.EINVAL, "no file can have this name", str(path)) from None
    file = open(descriptor, "rb")  # noqa: SIM115 (who asked for it closes it)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def read_file(path: Path) -> bytes:
    """The bytes of a regular file. OSError as for `open_file`."""
    with open_file(path) as file:
        return file.read()


def no_link(path: str, flags: int) -> int:
    """An opener: a regular file of this name itself, never what a link there leads to, nor a pipe that waits for a
    reader. OSError for those."""
    descriptor = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return descriptor


def begin_private(path: Path) -> None:
    """An empty file that only this user may read or write, where there is none; folders as usual.

    One that is there becomes private too, unless others may write it: somebody shares that on purpose.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    if path.is_file() and not path.stat().st_mode & 0o022:
        with contextlib.suppress(OSError):  # another user's
            path.chmod(0o600)


def parts_of(path: Path) -> list[Path]:
    """The files that together hold the rows: of a folder its `part-*.jsonl` in order, otherwise the one."""
    return (path.is_dir() and sorted(path.glob("part-*.jsonl"))) or [path]


def remove(path: Path) -> None:
    """Delete a file, or a folder with all that is in it; nothing where neither is there. Of a link only the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside, what the system refuses (a full disk) is an OSError that names `path`.

    Libraries hide the refusal: torch.save raises a RuntimeError on its way out, safetensors an error of its own whose
    text ends in "(os error 28)".
    """
    try:
        yield
    except Exception as error:
        refused = _refused(error)
        if refused is None:
            raise
        raise OSError(refused.errno, refused.strerror or str(refused), str(path)) from None


def _refused(error: BaseException | None) -> OSError | None:
    if isinstance(error, OSError):
        return error
    if found := re.search(r"\(os error (\d+)\)$", str(error)):
        return OSError(int(found[1]), os.strerror(int(found[1])))
    return _refused(error.__context__) if type(error) is RuntimeError else None
