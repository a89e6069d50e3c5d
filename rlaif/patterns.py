"""Search with a regular expression that a person wrote, within a limit of time: some take for ever on some texts.

Python's own `re` does it, in a process that the system ends after LIMIT_S seconds of computing. (Measured: the library
`regex`, which has a time limit, reads some patterns and letters otherwise, and takes all memory for nested repeats that
`re` compiles at once.) What does not end is no match and no failure to match.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from collections import Counter
from functools import lru_cache

from rlaif.errors import DataError, shown

LIMIT_S = 1.0
"""Of computing, not of waiting: a busy machine changes no result."""
PATIENCE = 10
"""After so many texts on which a pattern did not end it gets a tenth of the time."""
MOST_MEMORY = 2**30
WORKER = f"""
import contextlib, json, re, resource, signal, sys
with contextlib.suppress(OSError, ValueError):  # macOS has no such limit
    resource.setrlimit(resource.RLIMIT_AS, ({MOST_MEMORY}, {MOST_MEMORY}))
for line in sys.stdin.buffer:
    pattern, text, seconds, how = json.loads(line)
    try:
        compiled = re.compile(pattern)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        found = getattr(compiled, how)(text) is not None
    except MemoryError:
        signal.raise_signal(signal.SIGPROF)
    signal.setitimer(signal.ITIMER_PROF, 0)
    sys.stdout.buffer.write(b"yes\\n" if found else b"no\\n")
    sys.stdout.buffer.flush()
"""


def check_pattern(pattern: str) -> None:
    """ValueError for what is no regular expression, or is one that a later Python reads otherwise (`[[a]`)."""
    got = f"(got {shown(pattern)})"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            re.compile(pattern)
    except FutureWarning as error:
        raise ValueError(f"not a regular expression: {error}; write a backslash before it {got}") from None
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"not a regular expression: {error} {got}") from None


class Undecided(DataError):
    """What code cannot decide about a text. `reason` is the short fixed phrase of its failure row."""

    reason = "a classifier gave no number"


class Endless(Undecided):
    """A pattern came to no end on a text."""

    reason = "a check came to no end"


class _Worker:
    """The process, started when it is first needed and again after it was ended. One search at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def run(self, *order: str | float) -> bool | None:
        """None where it did not end."""
        with self._lock:
            process = self._running()
            assert process.stdin and process.stdout
            try:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(json.dumps(order).encode() + b"\n")
                    process.stdin.flush()
                answer = process.stdout.readline()
            except BaseException:  # an interrupt: the answer would be taken for that to the next question
                self.close()
                raise
            if answer:
                return answer == b"yes\n"
            code = process.wait()
            self.close()
            if code not in (-signal.SIGPROF, -signal.SIGKILL):
                raise DataError(f"no pattern can be searched for: the process that does it ended with code {code}")
            return None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._owner != os.getpid():  # the process of a parent that was forked is the parent's
            self._process, self._owner = None, os.getpid()
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        return self._process

    def close(self) -> None:
        """End the process, if it is this one's."""
        if self._process is None or self._owner != os.getpid():
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                if pipe:
                    pipe.close()
        self._process = None


_worker = _Worker()
atexit.register(_worker.close)
_endless = Counter[str]()


def search(pattern: str, text: str, seconds: float | None = None, how: str = "search") -> bool:
    """Whether the pattern, which must compile, is found in the text. Endless where that cannot be told in time."""
    found = _run(pattern, text, seconds or LIMIT_S, how)
    if found is None:
        raise Endless(f"the pattern {shown(pattern)} came to no end on a text of {len(text):,} characters")
    return found


def matches(pattern: str, text: str) -> bool:
    """Whether the pattern matches the whole text; else as `search`."""
    return search(pattern, text, how="fullmatch")


@lru_cache(4096)
def _run(pattern: str, text: str, seconds: float, how: str) -> bool | None:
    found = _worker.run(pattern, text, seconds if _endless[pattern] < PATIENCE else seconds / 10, how)
    _endless[pattern] += found is None
    return found
