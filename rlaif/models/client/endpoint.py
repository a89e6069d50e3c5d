"""Where a client's servers are, by which proxy they are reached, and the key that they are shown."""

from __future__ import annotations

import os
import socket
import urllib.request
from typing import NamedTuple

from yarl import URL

from rlaif.config.models import ClientModel
from rlaif.errors import ConfigError

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
LOOK_S = 5.0
"""How long a server may take to accept a connection when it is looked for before any work."""


class Endpoint(NamedTuple):
    """Of one server."""

    url: str
    proxy: str | None


def endpoint_of(url: str) -> Endpoint:
    """ConfigError for what is no address."""
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"base_urls: '{url}' must begin with http:// or https://")
    try:
        parts = URL(url)
        if not parts.host:
            raise ValueError("names no host")
    except ValueError as error:
        raise ConfigError(f"base_urls: '{url}': {error}") from None
    return Endpoint(url.rstrip("/"), _proxy(parts.scheme, parts.host, parts.port))


def _proxy(scheme: str, host: str, port: int | None) -> str | None:
    """The environment's proxy for this address; none may come between us and this machine."""
    if host in LOOPBACK or urllib.request.proxy_bypass(f"{host}:{port}"):
        return None
    known = urllib.request.getproxies()
    return known.get(scheme) or known.get("all")


def key_in(variable: str | None) -> str | None:
    """The key in this environment variable. ConfigError where it is not set or cannot be sent."""
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise ConfigError(f"api_key_env: the environment variable {variable} is not set")
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"api_key_env: what {variable} holds cannot be sent: a line break, or no ASCII")
    return key


def silent(config: ClientModel) -> list[str]:
    """The servers that accept no connection now; of those behind a proxy nothing is known. ConfigError for a key that
    is not set and for what is no address."""
    key_in(config.api_key_env)
    found = []
    for endpoint in map(endpoint_of, config.base_urls):
        parts = URL(endpoint.url)
        if endpoint.proxy is None:
            try:
                socket.create_connection((parts.host, parts.port), LOOK_S).close()
            except OSError:
                found.append(endpoint.url)
    return found
