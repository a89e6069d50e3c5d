"""A program that serves HTTP and belongs to this process: started, waited for, and ended for certain.

It runs under `watchdog`, so that it and all its workers go also when this process is killed with SIGKILL.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
from rich.console import Console

from rlaif.errors import ModelError
from rlaif.models import watchdog

POLL_S = 0.25
GRACE_S = 15.0
"""From SIGTERM to SIGKILL."""


class ServerProcess:
    """A program that serves HTTP, running from construction until `stop` or the end of this process."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], title: str) -> None:
        self._title = title
        with tempfile.NamedTemporaryFile("wb", prefix="rlaif-server-", suffix=".log", delete=False) as log:
            self.log = Path(log.name)
            guard = [sys.executable, "-I", watchdog.__file__, str(os.getpid()), str(GRACE_S)]
            self._guard = subprocess.Popen(
                [*guard, *command],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours to handle; the watchdog sees us go
            )
        atexit.register(self.stop)

    def exit_status(self, patience_s: float = 0) -> str | None:
        """How it ended, in words; None where it still runs after so many seconds."""
        try:
            return f"exit status {self._guard.wait(patience_s)}"
        except subprocess.TimeoutExpired:
            return None

    def wait_until_healthy(self, url: str, timeout_s: float) -> None:
        """Return when GET `url` answers 200. Raises ModelError, with the end of the log, if it never does."""
        console = Console(stderr=True)
        started = time.monotonic()
        console.print(f"Starting {self._title} (log: {self.log})", soft_wrap=True, highlight=False)
        try:
            with console.status("") as status:
                while not _is_healthy(url):
                    waited = time.monotonic() - started
                    if (end := self.exit_status()) is not None:
                        raise ModelError(f"{self._title} did not start ({end}); {self.last_words()}")
                    if waited > timeout_s:
                        raise ModelError(f"{self._title} was not ready after {timeout_s:g} s; {self.last_words()}")
                    line = "".join(self._tail(1))[-console.width + 30 :]
                    status.update(f"{waited:.0f} s  {line}".replace("[", r"\["))
                    time.sleep(POLL_S)
        except BaseException:
            self.stop()
            raise
        console.print(f"{self._title} is ready after {time.monotonic() - started:.0f} s", highlight=False)

    def stop(self) -> None:
        """End the server and all that it started; returns when they are gone. Twice does no harm."""
        atexit.unregister(self.stop)
        self._guard.terminate()
        try:
            self._guard.wait(GRACE_S + watchdog.WORKERS_S + watchdog.GONE_S + 3)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()

    def last_words(self) -> str:
        """Where the log is and how it ends, for an error message."""
        return f"the end of {self.log}:\n" + "".join(f"  {line}\n" for line in self._tail(8)).rstrip()

    def _tail(self, count: int) -> list[str]:
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 16_384))
            lines = file.read().decode(errors="replace").splitlines()
        return [line.strip() for line in lines if line.strip()][-count:]


def _is_healthy(url: str) -> bool:
    try:
        with httpx.stream("GET", url, timeout=2, trust_env=False) as answer:  # whatever it says is left unread
            return answer.status_code == 200
    except httpx.RequestError:
        return False
