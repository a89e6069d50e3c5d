"""Run a command in a process group of its own, and end the whole group when its time is over.

That is when the command ends, when this process gets SIGTERM, or when the process that asked is gone, however
it went. vLLM needs it: its engine and workers live on when only the server is killed. Run as a file, so that
it imports nothing else of rlaif:

    python -I watchdog.py PARENT_PID GRACE_S COMMAND ...
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

POLL_S = 0.1
WORKERS_S = 2.0
GONE_S = 30.0
"""What the kernel may take to end a killed process that holds much memory: on a busy machine more than five seconds."""


def main(parent: int, grace_s: float, command: list[str]) -> int:
    """Watch until the end; the command's exit status."""
    told_to_stop = False

    def stop(_signal: int, _frame: object) -> None:
        nonlocal told_to_stop
        told_to_stop = True

    signal.signal(signal.SIGTERM, stop)
    server = subprocess.Popen(command, start_new_session=True)
    while server.poll() is None and not told_to_stop and os.getppid() == parent:
        time.sleep(POLL_S)
    if server.poll() is None:
        server.terminate()  # the server alone, so that it can end its workers in order
        with suppress(subprocess.TimeoutExpired):
            server.wait(grace_s)
    _clear(server.pid)
    return server.wait()


def _clear(group: int) -> None:
    """Ask the workers that are left to go, wait a little for their clean-up, then kill, and see them gone."""
    with suppress(ProcessLookupError):  # nobody is left
        os.killpg(group, signal.SIGTERM)
        _wait(group, WORKERS_S)
        os.killpg(group, signal.SIGKILL)
        _wait(group, GONE_S)


def _wait(group: int, seconds: float) -> None:
    """So long at most; ProcessLookupError as soon as nobody is left."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(POLL_S)
        os.killpg(group, 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
