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
