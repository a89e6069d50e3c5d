"""Folders that appear only when they are whole."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from rlaif.files import writing
from rlaif.processes import leads, several


@contextlib.contextmanager
def publishing(folder: Path) -> Iterator[Path]:
    """A folder to write into that takes its name only when it is whole. Of several processes, which all come here, the
    first writes and names it; the others leave when it is there."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    if leads():
        shutil.rmtree(temporary, ignore_errors=True)
    with writing(folder):
        yield temporary
        if leads():
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
    if several():
        from rlaif.training import parallel

        parallel.wait()
