"""The process that serves: a socket, uvicorn, and an end that loses nothing."""

from __future__ import annotations

import contextlib
import os
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from rlaif.annotate.app import run_until_stopped
from rlaif.annotate.guard import App, run_token
from rlaif.console import say
from rlaif.errors import ConfigError
from rlaif.records import content_id
from rlaif.serve.access import LOOPBACK, Access
from rlaif.serve.app import make_app
from rlaif.serve.opening import Wish, open_target
from rlaif.serve.records import ServiceLog
from rlaif.serve.service import Limits, Service

PORT = 8790
LAST_REQUESTS_S = 10


class Address(NamedTuple):
    """Where the service is reached, and by whom."""

    host: str = "127.0.0.1"
    port: int = PORT
    """0: any free one."""
    token_env: str | None = None
    """The environment variable that holds the token."""


def serve(wish: Wish, folder: Path, address: Address, limits: Limits) -> None:
    """Serve the target until Ctrl-C or SIGTERM; what is answered is recorded in `folder`.

    ConfigError, in one line, where FastAPI is missing, the target is none, the port is taken or another process serves
    from the folder.
    """
    needs_extra()
    with contextlib.closing(ServiceLog(folder)) as log, contextlib.closing(listen(address)) as listening:
        access = access_of(address, folder)
        say(f"opening {wish.name} ...")
        opened = open_target(wish, content_id("serve", str(folder.resolve())))
        with contextlib.closing(Service(opened.target, opened.parser, log, limits)) as service:
            say(f"{service.target.name}: {log.path}")
            run(make_app(service, access), listening, access)


def needs_extra() -> None:
    """ConfigError where what serves is not installed."""
    if missing := [name for name in ("fastapi", "uvicorn", "prometheus_client") if find_spec(name) is None]:
        raise ConfigError(f'serve: needs {", ".join(missing)}; install it with: pip install "rlaif[serve]"')


def listen(address: Address) -> socket.socket:
    """A socket that listens there. ConfigError where it cannot."""
    try:
        family = socket.getaddrinfo(address.host, None)[0][0]
        # A restarted service gets its port back although connections of the last one linger.
        return socket.create_server((address.host, address.port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"--host {address.host} --port {address.port}: cannot listen: {getattr(error, 'strerror', None) or error}"
        ) from None


def access_of(address: Address, folder: Path) -> Access:
    """Who may ask. Beyond this machine only who knows the token: that of the environment, or one kept in the folder."""
    if address.token_env is not None:
        token = os.environ.get(address.token_env, "").strip()
        if not token:
            raise ConfigError(f"--token-env {address.token_env}: not set, or empty")
        return Access(token)
    return Access() if address.host in LOOPBACK else Access(run_token(folder / ".token"))


def run(app: App, listening: socket.socket, access: Access) -> None:
    """Serve until Ctrl-C or SIGTERM; what is under way may end."""
    host, port = listening.getsockname()[:2]
    where = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    say(f"listening on {where}" + ("" if access.token is None else f"; trainers may use {where}/key/{access.token}"))
    say("Ctrl-C ends it; nothing is lost")
    run_until_stopped(app, listening, LAST_REQUESTS_S)
